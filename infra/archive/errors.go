package archive

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// ErrConflict says that the archive has another version than the one a call was about.
	ErrConflict = errors.New("archive: there is another version")
	// ErrPermanent says that it is no use to try again: what was given can't be kept, or not by us, or what was asked for
	// is damaged. After any other error but ErrConflict it is.
	ErrPermanent = errors.New("archive: no use in trying again")
)

// permanentCodes are Firestore's answers to what it will never do with this record. Others are those of an outage, of a
// quota, which fills again, and of what an operator can mend, as a role that is missing: nobody's conversations end by
// that.
var permanentCodes = []codes.Code{codes.InvalidArgument, codes.OutOfRange}

// permanentErrors are the same for a file system. A full one may be made room in.
var permanentErrors = []error{unix.EFBIG, unix.ENAMETOOLONG, unix.ENOTDIR, unix.EISDIR, unix.ELOOP}

// failed is the error for a caller, of what went wrong in the place where things are kept.
func failed(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrConflict), errors.Is(err, ErrPermanent):
		return err
	case isPermanent(err):
		return fmt.Errorf("%w: %w", ErrPermanent, err)
	}
	return fmt.Errorf("archive: %w", err)
}

func isPermanent(err error) bool {
	code := status.Code(err)
	if code == codes.ResourceExhausted { // by a quota, or by a message that is too large for the connection
		return strings.Contains(err.Error(), "larger than max")
	}
	return slices.Contains(permanentCodes, code) ||
		slices.ContainsFunc(permanentErrors, func(known error) bool { return errors.Is(err, known) })
}

// checkHead refuses a head that not every Store has room for.
func checkHead(r Record) error {
	if len(r.Head) > MaxHead {
		return fmt.Errorf("%w: a head of %d bytes is too large", ErrPermanent, len(r.Head))
	}
	return nil
}
