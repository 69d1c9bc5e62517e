package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"gatemesh/node/api"
)

// SocketName is the control socket's name in the data directory.
const SocketName = "gatemesh.sock"

// maxSocketPath is what every system allows for the path of a unix socket
// (macOS has 104 bytes with the final zero).
const maxSocketPath = 103

func (n *Node) socketPath() string {
	if n.cfg.Socket != "" {
		return n.cfg.Socket
	}
	return filepath.Join(n.cfg.Data, SocketName)
}

// listenSocket opens the control socket for its owner only. A socket that a
// crashed process left is replaced: the store's lock says that it is dead.
func (n *Node) listenSocket() (net.Listener, error) {
	if n.cfg.Control != nil {
		return n.cfg.Control, nil
	}
	path := n.socketPath()
	if len(path) > maxSocketPath {
		return nil, hintf("choose a shorter one with --socket", "the control socket's path %s is longer than %d bytes", path, maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, unwritableSocket(err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, hintf("choose another with --socket", "another gateway listens on the control socket %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, unwritableSocket(err)
	}
	l, err := listenPrivate(path)
	if err != nil {
		return nil, unwritableSocket(err)
	}
	return l, nil
}

func unwritableSocket(err error) error {
	return hintf("choose another with --socket", "control socket: %w", err)
}

// serveAPI answers on the control socket until ctx ends.
func (n *Node) serveAPI(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           api.Handler(n, n.log.With("component", "api")),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		ConnContext:       whoAsks,
	}
	stop := context.AfterFunc(ctx, func() {
		close(n.stopping) // whoever listens to events goes
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}
