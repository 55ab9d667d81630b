package router

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/freeport"
	"claudepool/infra/testkit"
	"claudepool/infra/testkit/need"
)

// selfSigned is a certificate for 127.0.0.1 with its key, in PEM form.
func selfSigned(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	raw, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}

func TestNewClient_SpeaksTLSWithWhomItTrustsOnly(t *testing.T) {
	need.Program(t, "redis-server")
	certificate, key := selfSigned(t)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(certFile, certificate, 0o600))
	require.NoError(t, os.WriteFile(keyFile, key, 0o600))
	addr, err := freeport.Addr()
	require.NoError(t, err)
	_, port, _ := net.SplitHostPort(addr)
	server, err := testkit.StartRedis(dir, addr, "--port", "0", "--tls-port", port, "--tls-auth-clients", "no",
		"--tls-cert-file", certFile, "--tls-key-file", keyFile, "--requirepass", "hunter2")
	require.NoError(t, err)
	t.Cleanup(server.Kill)

	url := "rediss://:hunter2@" + addr + "/0"
	trusting, err := NewClient(url, string(certificate))
	require.NoError(t, err)
	t.Cleanup(func() { _ = trusting.Close() })
	require.Eventually(t, func() bool { return trusting.Ping(t.Context()).Err() == nil }, 30*time.Second,
		20*time.Millisecond)

	strange, _ := selfSigned(t)
	for _, ca := range []string{"", string(strange)} {
		client, err := NewClient(url, ca)
		require.NoError(t, err)
		// On a busy machine a handshake may take longer than a connection is waited for.
		require.Eventually(t, func() bool {
			err := client.Ping(t.Context()).Err()
			return err != nil && strings.Contains(err.Error(), "certificate")
		}, 30*time.Second, 20*time.Millisecond)
		require.NoError(t, client.Close())
	}
	_, err = NewClient(url, "no certificate")
	require.Error(t, err)
}
