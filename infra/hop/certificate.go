package hop

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

var (
	// ErrUnreached says that no connection came about, so that nothing of a request has been sent.
	ErrUnreached = errors.New("hop: the instance can't be reached")
	// ErrCertificate says that whoever answers is not the instance that published the fingerprint.
	ErrCertificate = errors.New("hop: not this instance's certificate")
)

const (
	dialTimeout = time.Second
	// handshakeTimeout is longer: on a busy machine many handshakes at once take their time, and an instance that was
	// reached but not waited for would be taken for one that is gone.
	handshakeTimeout = 5 * time.Second
	// validity says nothing: a certificate lives as long as its instance, and the fingerprint decides.
	validity = 10 * 365 * 24 * time.Hour
)

// NewCertificate makes an instance's certificate. It is signed by nobody but itself and is kept in memory only: fronts
// know it by its fingerprint.
func NewCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("hop: certificate: %w", err)
	}
	begin := time.Now().Add(-time.Hour)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: begin.Add(validity),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("hop: certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Fingerprint is the SHA-256 digest of the certificate, in hex digits.
func Fingerprint(certificate tls.Certificate) string {
	digest := sha256.Sum256(certificate.Certificate[0])
	return hex.EncodeToString(digest[:])
}

// ServerTLS is the configuration of an instance's server. It speaks HTTP/1.1, so that every stream has a connection of
// its own: one that breaks or stands still holds up no other.
func ServerTLS(certificate tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13,
		NextProtos: []string{"http/1.1"}}
}

// Dial connects to the instance at addr that has published the fingerprint, and to no other. Its errors are
// ErrUnreached, and where something else answered ErrCertificate too. An instance without a fingerprint,
// which is of a version that did not encrypt, is not reached.
func Dial(ctx context.Context, addr, fingerprint string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	plain, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreached, err)
	}
	conn := tls.Client(plain, clientTLS(fingerprint))
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = plain.Close()
		return nil, fmt.Errorf("%w: %w", ErrUnreached, err)
	}
	return conn, nil
}

// clientTLS trusts one certificate. Names, dates and issuers are not looked at, which is what InsecureSkipVerify asks
// for; that the other side holds the certificate's key is part of every handshake.
func clientTLS(fingerprint string) *tls.Config {
	return &tls.Config{
		// #nosec G402 -- VerifyConnection pins the fingerprint instead
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			shown := Fingerprint(tls.Certificate{Certificate: [][]byte{state.PeerCertificates[0].Raw}})
			if subtle.ConstantTimeCompare([]byte(shown), []byte(fingerprint)) != 1 {
				return ErrCertificate
			}
			return nil
		},
	}
}
