package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// closeLimit bounds the wait for Badger to close, which never returns when its directory is gone.
const closeLimit = 10 * time.Second

// openDisk opens Badger, with room for what that writes.
func openDisk(cfg Config) (*badger.DB, *volume, error) {
	if cfg.Dir != "" {
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return nil, nil, &DamageError{Dir: cfg.Dir, Err: err}
		}
	}
	v := newVolume(cfg)
	had := v.ballast()
	if unlock, ok := lockDir(cfg.Dir); ok { // else another process has it, as Badger will say
		err := verify(cfg.Dir)
		if err == nil {
			err = v.opening()
		}
		if err == nil {
			removeEmptyLogs(cfg.Dir)
		}
		unlock()
		if err != nil {
			return nil, nil, err
		}
	}
	db, err := openBadger(options(cfg.Dir, cfg.Log))
	v.reload(had)
	if err != nil {
		if strings.Contains(err.Error(), "Another process is using this Badger database") {
			return nil, nil, &InUseError{Dir: cfg.Dir, PID: holder(cfg.Dir)}
		}
		return nil, nil, damage(cfg.Dir, err)
	}
	_ = v.look() // it only says now what writes will be told
	return db, v, nil
}

// openBadger opens Badger. Of some damage it panics: that is an error too.
func openBadger(o badger.Options) (db *badger.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return badger.Open(o)
}

// damage says of an error of Badger's opening what is known of its place.
func damage(dir string, err error) error {
	e := &DamageError{Dir: dir, Err: err}
	var path *fs.PathError
	switch {
	case errors.As(err, &path):
		e.File = filepath.Base(path.Path)
	case strings.Contains(err.Error(), "key registry"), strings.Contains(err.Error(), "sanity text"):
		e.File = badger.KeyRegistryFileName
	}
	return e
}

// closeDisk closes Badger. Where it cannot, everything that was acknowledged is in its logs, and the next opening
// reads them as after a crash.
func (s *Store) closeDisk() error {
	if !s.volume.jettison() {
		free, _, _ := s.volume.measure(s.dir)
		s.log.Warn("no room to close the store; its logs are read at the next start", "free", free, "dir", s.dir)
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- s.db.Close() }()
	limit := time.NewTimer(closeLimit)
	defer limit.Stop()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("close store: %w", err)
		}
		return nil
	case <-limit.C:
		return fmt.Errorf("close store %s: not done after %v; was the directory removed?", s.dir, closeLimit)
	}
}

// options are Badger's in a size fit for a gateway.
func options(dir string, log *slog.Logger) badger.Options {
	return badger.DefaultOptions(dir).
		WithInMemory(dir == "").
		WithSyncWrites(true).
		WithMemTableSize(8 << 20).
		WithNumMemtables(2).
		WithValueLogFileSize(16 << 20).
		WithBlockCacheSize(4 << 20).
		WithIndexCacheSize(4 << 20).
		WithNumCompactors(2).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithLogger(bridge{log})
}

// holder returns the process that Badger's lock file names.
func holder(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, "LOCK"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}
