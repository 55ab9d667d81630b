// Package instance finds out what a pool instance can't be told: the address the platform gave it.
package instance

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/compute/metadata"
)

const metadataTimeout = 5 * time.Second

// Addr is where fronts reach this instance: the address that was configured, or the instance's own on the VPC as the
// metadata server knows it, with the given port. It asks for at most 5 s.
func Addr(ctx context.Context, configured string, port int) (string, error) {
	if configured != "" {
		return configured, nil
	}
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	ip, err := metadata.GetWithContext(ctx, "instance/network-interfaces/0/ip")
	if err != nil {
		return "", fmt.Errorf("instance: ADVERTISE_ADDR is not set and the metadata server doesn't tell: %w", err)
	}
	addr, err := netip.ParseAddr(strings.TrimSpace(ip))
	if err != nil || addr.IsUnspecified() {
		return "", fmt.Errorf("instance: ADVERTISE_ADDR is not set and the metadata server's answer is no address: %.40q", ip)
	}
	return net.JoinHostPort(addr.String(), strconv.Itoa(port)), nil
}
