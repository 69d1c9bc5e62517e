//go:build !linux

package cluster

import (
	"errors"
	"io/fs"
)

// measureDisk is not known here: the store writes until the disk is full.
func measureDisk(string) (free, total uint64, err error) { return 0, 0, errors.ErrUnsupported }

func allocate(string, int64) error { return errors.ErrUnsupported }

func blocksOf(info fs.FileInfo) uint64 { return uint64(info.Size()) } //nolint:gosec // not negative
