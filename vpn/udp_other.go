//go:build !linux

package vpn

import "golang.zx2c4.com/wireguard/conn"

// newBind returns the bind of the module.
func newBind(int) conn.Bind { return conn.NewStdNetBind() }
