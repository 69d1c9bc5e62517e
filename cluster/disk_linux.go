package cluster

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// measureDisk returns what of the volume of a directory this user may still fill, and its size, in bytes.
func measureDisk(dir string) (free, total uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	size := uint64(st.Bsize) //nolint:gosec // not negative
	return st.Bavail * size, st.Blocks * size, nil
}

// allocate gives a file so many bytes of the disk, without writing them. If it cannot be made larger it stays as it is.
func allocate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if size <= info.Size() {
		return f.Truncate(size)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil { //nolint:gosec // a descriptor
		_ = f.Truncate(info.Size())
		return &fs.PathError{Op: "allocate", Path: path, Err: err}
	}
	return nil
}

// blocksOf is how much of a file is on the disk, in bytes.
func blocksOf(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Blocks) * 512 //nolint:gosec // not negative
	}
	return uint64(info.Size()) //nolint:gosec // not negative
}
