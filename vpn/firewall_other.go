//go:build !linux

package vpn

import "context"

// ForwardDrops is known on Linux only.
func ForwardDrops(context.Context) ([]string, error) { return nil, ErrUnsupported }

// Forwards is known on Linux only.
func Forwards() (v4, v6 bool) { return true, true }
