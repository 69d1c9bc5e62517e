//go:build !windows

package node

import (
	"errors"
	"net"
	"os"
)

// listenPrivate opens a unix socket that only its owner may connect to. It is
// made under another name and renamed, so there is no moment at which others
// may connect.
func listenPrivate(path string) (net.Listener, error) {
	tmp := path + "~"
	if err := os.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.Listen("unix", tmp)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(tmp, 0o600); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return &privateListener{l, path}, nil
}

// privateListener removes its socket when it is closed, which may be twice.
type privateListener struct {
	net.Listener
	path string
}

func (l *privateListener) Close() error {
	err := l.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return errors.Join(err, os.Remove(l.path))
}
