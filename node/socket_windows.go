package node

import "net"

// listenPrivate opens a unix socket; on Windows the directory's access list
// guards it.
func listenPrivate(path string) (net.Listener, error) { return net.Listen("unix", path) }
