package node

import (
	"fmt"
	"net"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// peerOf returns the user and the process at the other end of a unix socket.
func peerOf(c net.Conn) (name string, pid int, ok bool) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return "", 0, false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return "", 0, false
	}
	var cred *unix.Ucred
	if raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) //nolint:gosec // a file descriptor
	}) != nil || err != nil {
		return "", 0, false
	}
	id := strconv.FormatUint(uint64(cred.Uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return fmt.Sprintf("user %s (%s)", u.Username, id), int(cred.Pid), true
	}
	return "user " + id, int(cred.Pid), true
}
