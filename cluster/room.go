package cluster

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// Badger writes through memory maps of sparse files: on a full volume the kernel
// kills the process at such a write, and again at each opening, which writes too.
// So the store stops writing while there is still room for what Badger does in the
// background, and holds a ballast, a file without content whose blocks are given
// free for an opening that has no room otherwise.
//
//	free space   0 ────────── low ── back ──────────
//	writes          refused      as before   taken
//
// Nothing of this keeps another process from filling the volume within the fraction
// of a second that Badger needs to write a table, some times a day.
const (
	ballastFile = "BALLAST"
	minBallast  = 24 << 20
	maxBallast  = 256 << 20
	lowRoom     = 64 << 20 // a table, and what the compaction of some writes before it removes them
	openRoom    = 4 << 20  // of an opening, beside the logs that it rewrites
	lookEvery   = time.Second
)

// Room says what is left of the volume that a store is on.
type Room struct {
	ReadOnly bool   // writes are refused
	Free     uint64 // bytes; 0 if unknown
	Needed   uint64 // free bytes from which writes are taken again
}

// Room returns what was seen last. It costs nothing.
func (s *Store) Room() Room { return s.volume.room() }

// Refusal returns the *SealedError or *ReadOnlyError that a write would be refused with now, nil if there is none. It
// costs nothing.
func (s *Store) Refusal() error {
	if e := s.seal.Load(); e != nil {
		return e
	}
	return s.volume.refusal()
}

// volume watches the free space of a directory. Only the committer looks; all may ask.
type volume struct {
	dir       string // "": in memory, always room
	log       *slog.Logger
	measure   func(dir string) (free, total uint64, err error)
	low, back uint64
	full      uint64 // size of the ballast

	free     atomic.Uint64
	readOnly atomic.Bool
}

func newVolume(cfg Config) *volume {
	v := &volume{dir: cfg.Dir, log: cfg.Log, measure: cfg.disk}
	if v.measure == nil {
		v.measure = measureDisk
	}
	if v.dir == "" {
		return v
	}
	free, total, err := v.measure(v.dir)
	if err != nil {
		v.dir = "" // unknown: as if there were room
		return v
	}
	v.free.Store(free)
	v.low, v.full = shares(total)
	v.back = v.low + v.low/4
	return v
}

// shares divides up a volume: the free space below which nothing is written, and the size of the ballast.
func shares(total uint64) (low, ballast uint64) {
	return min(lowRoom, total/4), min(max(total/20, minBallast), total/8, maxBallast)
}

// nextMode says whether a store is read-only that was it or not before.
func nextMode(was bool, free, low, back uint64) bool { return free < low || was && free < back }

// look measures, and returns a *ReadOnlyError if nothing may be written now.
func (v *volume) look() error {
	if v.dir == "" {
		return nil
	}
	free, _, err := v.measure(v.dir)
	if err != nil {
		return nil //nolint:nilerr // the write itself will tell
	}
	v.free.Store(free)
	was := v.readOnly.Load()
	now := nextMode(was, free, v.low, v.back)
	v.readOnly.Store(now)
	switch {
	case now && !was:
		v.log.Error("disk nearly full: changes are refused, devices are served on",
			"free", free, "needed", v.back, "dir", v.dir)
	case was && !now:
		v.log.Info("disk has room again: changes are taken", "free", free, "dir", v.dir)
	}
	return v.refusal()
}

// refusal returns a *ReadOnlyError while the volume is read-only. It does not measure.
func (v *volume) refusal() error {
	if !v.readOnly.Load() {
		return nil
	}
	return &ReadOnlyError{Dir: v.dir, Free: v.free.Load(), Needed: v.back}
}

func (v *volume) room() Room {
	return Room{ReadOnly: v.readOnly.Load(), Free: v.free.Load(), Needed: v.back}
}

// keep gives the ballast its size as soon as there is room for it.
func (v *volume) keep() {
	if has := v.ballast(); v.dir != "" && has < v.full && v.free.Load() >= v.back+v.full-has {
		v.load(v.full)
	}
}

// opening makes way for Badger's opening: as much of the ballast goes as is needed. What that leaves over is to be
// taken back with reload.
func (v *volume) opening() error {
	if v.dir == "" {
		return nil
	}
	need := openRoom + 2*logBytes(v.dir)
	free, has := v.free.Load(), v.ballast()
	if free >= need {
		return nil
	}
	if has > 0 {
		v.load(has - min(has, need-free))
		free, _, _ = v.measure(v.dir)
	}
	if free < need {
		return &ReadOnlyError{Dir: v.dir, Free: free, Needed: need}
	}
	return nil
}

// reload takes as much ballast as it was before the opening, or what there is.
func (v *volume) reload(had uint64) {
	has := v.ballast()
	if v.dir == "" || has >= had {
		return
	}
	spare := openRoom + logBytes(v.dir) // Badger writes what it found in logs to tables after it has opened
	if free, _, err := v.measure(v.dir); err == nil && free > spare {
		v.load(has + min(had-has, free-spare))
	}
}

// jettison lets go of the ballast and says whether there is room then to close what has unwritten logs.
func (v *volume) jettison() bool {
	if v.dir == "" {
		return true
	}
	need := openRoom + logBytes(v.dir)
	free, _, err := v.measure(v.dir)
	if err != nil || free >= need {
		return true
	}
	has := v.ballast()
	v.load(has - min(has, need-free))
	free, _, err = v.measure(v.dir)
	return err != nil || free >= need
}

func (v *volume) ballast() uint64 {
	info, err := os.Stat(filepath.Join(v.dir, ballastFile))
	if err != nil {
		return 0
	}
	return uint64(max(info.Size(), 0)) //nolint:gosec // not negative
}

// load gives the ballast a size. It is only a precaution, so that it cannot be given is only noted.
func (v *volume) load(size uint64) {
	path := filepath.Join(v.dir, ballastFile)
	var err error
	if size == 0 {
		err = os.Remove(path)
	} else {
		err = allocate(path, int64(size)) //nolint:gosec // a part of a disk
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.log.Debug("ballast", "bytes", size, "err", err)
	}
}

// logBytes is how much of Badger's logs is on the disk.
func logBytes(dir string) (n uint64) {
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if info, err := f.Info(); err == nil && strings.HasSuffix(f.Name(), ".mem") {
			n += blocksOf(info)
		}
	}
	return n
}

// MeasureDisk returns how many bytes of the volume that holds a directory are free, and all.
func MeasureDisk(dir string) (free, total uint64, err error) { return measureDisk(dir) }

// LowDisk returns below how many free bytes of a volume nothing is written.
func LowDisk(total uint64) uint64 {
	low, _ := shares(total)
	return low
}
