package hop

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// listen answers every connection with the certificate and one byte, and returns its address.
func listen(t *testing.T, certificate tls.Certificate) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", ServerTLS(certificate))
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = conn.Write([]byte("!"))
				_ = conn.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

func newCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	certificate, err := NewCertificate()
	require.NoError(t, err)
	return certificate
}

func TestDial_ReachesWhoPublishedTheFingerprintAndNobodyElse(t *testing.T) {
	own, other := newCertificate(t), newCertificate(t)
	addr, good := listen(t, own), Fingerprint(own)
	conn, err := Dial(t.Context(), addr, good)
	require.NoError(t, err)
	defer conn.Close()
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "!", string(got))

	for _, wrong := range []string{Fingerprint(other), "", good[:len(good)-1], good + "0", strings.ToUpper(good)} {
		_, err := Dial(t.Context(), addr, wrong)
		require.ErrorIs(t, err, ErrCertificate, wrong)
		require.ErrorIs(t, err, ErrUnreached, wrong)
	}
}

// Whoever shows a certificate without holding its key is refused by the handshake itself.
func TestDial_ACopiedCertificateIsNotEnough(t *testing.T) {
	own, thief := newCertificate(t), newCertificate(t)
	thief.Certificate = own.Certificate
	_, err := Dial(t.Context(), listen(t, thief), Fingerprint(own))
	require.ErrorIs(t, err, ErrUnreached)
}

func TestDial_RefusesWhoSpeaksNoTLSOrAnOldOne(t *testing.T) {
	own := newCertificate(t)
	old := ServerTLS(own)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	for _, listener := range []net.Listener{plain, tls.NewListener(plain, old)} {
		go func() {
			conn, err := listener.Accept()
			if err == nil {
				_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
				_ = conn.Close()
			}
		}()
		_, err := Dial(t.Context(), listener.Addr().String(), Fingerprint(own))
		require.ErrorIs(t, err, ErrUnreached)
	}
	require.NoError(t, plain.Close())
	begun := time.Now()
	_, err = Dial(t.Context(), plain.Addr().String(), Fingerprint(own))
	require.ErrorIs(t, err, ErrUnreached)
	require.Less(t, time.Since(begun), handshakeTimeout)
}

func TestNewCertificate_IsAnotherEachTime(t *testing.T) {
	require.NotEqual(t, Fingerprint(newCertificate(t)), Fingerprint(newCertificate(t)))
	require.Regexp(t, "^[0-9a-f]{64}$", Fingerprint(newCertificate(t)))
}
