//go:build unix

package cluster

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockDir takes the lock that Badger takes, so that nobody else has the directory
// until it is let go. It does not wait.
func lockDir(dir string) (unlock func(), ok bool) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, false
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil { //nolint:gosec // a descriptor
		_ = f.Close()
		return nil, false
	}
	return func() {
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN) //nolint:gosec // a child may have the descriptor until it runs its program
		_ = f.Close()
	}, true
}
