//go:build !linux

package vpn

import (
	"fmt"
	"runtime"

	"golang.zx2c4.com/wireguard/tun"
)

// TUN is the kernel's data plane, which exists on Linux only so far.
type TUN struct{ tun.Device }

// OpenTUN returns an error that wraps ErrUnsupported.
func OpenTUN(TUNConfig) (*TUN, error) {
	return nil, fmt.Errorf("open TUN on %s: %w", runtime.GOOS, ErrUnsupported)
}
