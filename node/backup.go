package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// Backup implements [api.Backups].
func (n *Node) Backup(ctx context.Context, w io.Writer) error {
	p, err := n.running()
	if err != nil {
		return err
	}
	b, err := n.store.Backup(w, cluster.Backup{Cluster: p.facts.cluster, Made: n.cfg.Now(), Version: n.cfg.Version})
	if err != nil {
		return err
	}
	n.note(ctx, "backup", "cluster")
	n.log.Info("backup made", "cells", b.Cells, "devices", b.Devices)
	return nil
}

// Restore implements [api.Backups]. The stream is read to its end into a file
// before anything is merged.
func (n *Node) Restore(ctx context.Context, r io.Reader) (api.Restored, error) {
	p, err := n.running()
	if err != nil {
		return api.Restored{}, err
	}
	f, err := os.CreateTemp(n.cfg.Data, ".restore-*")
	if err != nil {
		return api.Restored{}, fmt.Errorf("keep backup: %w", err)
	}
	defer os.Remove(f.Name()) // where that cannot be done now, while it is open
	defer f.Close()
	_ = os.Remove(f.Name()) // it has all secrets in the clear, and must not outlive a crash
	b, err := cluster.ReadBackup(io.TeeReader(r, whileRoom{f, n.store}), nil)
	if err == nil && b.Cluster != p.facts.cluster {
		err = hintf("restore it with --data into an empty directory, where it becomes a gateway of that cluster",
			"the backup is of cluster %s, this gateway is in %s", clusterName(b.Cluster), clusterName(p.facts.cluster))
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	before := n.store.CountDevices()
	if err == nil {
		_, err = n.store.Restore(ctx, f)
	}
	if err != nil {
		return api.Restored{}, refusedBackup(err)
	}
	out := restored(b)
	out.Before, out.After = before, n.store.CountDevices()
	n.note(ctx, "restore", "backup of "+b.Made.Format(time.RFC3339))
	n.log.Info("backup restored", "made", b.Made, "cells", b.Cells, "devices before", before, "devices", out.After)
	return out, nil
}

// whileRoom writes only while the store's volume has room.
type whileRoom struct {
	io.Writer
	store *cluster.Store
}

func (w whileRoom) Write(b []byte) (int, error) {
	if err := w.store.Refusal(); err != nil {
		return 0, err
	}
	return w.Writer.Write(b)
}

// refusedBackup turns what is wrong with a backup into words.
func refusedBackup(err error) error {
	var hint *HintError
	if err = ExplainBackup(err); errors.As(err, &hint) {
		return &api.Error{Code: api.Invalid, Message: err.Error(), Hint: hint.Hint}
	}
	return err
}

// ExplainBackup adds what to do about a backup that cannot be used.
func ExplainBackup(err error) error {
	var bad *cluster.BackupError
	switch {
	case !errors.As(err, &bad):
		return err
	case bad.Newer:
		return &HintError{Err: err, Hint: "use the gatemesh that made it, or a newer one"}
	}
	return &HintError{Err: err, Hint: "take another copy of this backup, or an older one; nothing was restored"}
}

// CheckBackup reads a backup to its end and says what is in it.
func CheckBackup(r io.Reader) (api.Restored, error) {
	b, err := cluster.ReadBackup(r, nil)
	return restored(b), err
}

func restored(b cluster.Backup) api.Restored {
	return api.Restored{Cluster: clusterName(b.Cluster), Made: b.Made, Version: b.Version, Cells: b.Cells, Devices: b.Devices}
}

// RestoreInto makes a data directory, which must be empty or missing, from a
// backup that was checked before: that of a new gateway of the backup's cluster, which begins
// by itself and makes itself known to the members of old when they answer. After an
// error the directory is as it was.
func RestoreInto(ctx context.Context, cfg Config, r io.Reader) (out api.Restored, err error) {
	entries, err := os.ReadDir(cfg.Data)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return out, unwritable(err)
	case len(entries) > 0:
		return out, hintf("name an empty one with --data; or start the gateway, to merge the backup into its cluster",
			"data directory %s is not empty", cfg.Data)
	}
	missing := err != nil
	n, err := New(cfg)
	if err != nil {
		return out, err // what is in the directory now may be another's
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, clearDir(cfg.Data, missing))
		}
	}()
	ctx, stop := context.WithCancel(cluster.WithActor(ctx, cluster.Actor{Name: "restore"}))
	done := make(chan error, 1)
	go func() { done <- n.store.Run(ctx) }()
	b, err := n.restoreInto(ctx, r)
	stop()
	err = errors.Join(err, <-done, n.Close())
	out = restored(b)
	out.After = int(b.Devices) //nolint:gosec // a count
	return out, err
}

func (n *Node) restoreInto(ctx context.Context, r io.Reader) (cluster.Backup, error) {
	now := n.cfg.Now()
	// First, so that what a crash leaves is not taken for a gateway without a cluster, nor for one that is known.
	mark := []byte(now.UTC().Format(time.RFC3339) + "\n")
	if err := WriteFile(filepath.Join(n.cfg.Data, restoredFile), mark); err != nil {
		return cluster.Backup{}, err
	}
	b, err := n.store.Restore(ctx, r)
	if err == nil {
		err = n.store.MarkForeign(ctx)
	}
	if err != nil {
		return b, err
	}
	err = n.store.Admit(ctx, cluster.Admission{
		Key: n.public(), Name: n.cfg.Name, Sponsor: n.self, At: now,
		Statement: cluster.SignAdmission(n.key, b.Cluster, n.public(), now),
	})
	if err != nil {
		return b, fmt.Errorf("admit restored gateway: %w", err)
	}
	f, ok, err := loadFacts(n.store, n.self)
	if err == nil && (!ok || f.cluster != b.Cluster) {
		err = errors.New("the backup lacks the cluster's settings")
	}
	return b, err
}

// clearDir removes what is in a directory, and the directory itself if it is to be missing.
func clearDir(dir string, missing bool) error {
	if missing {
		return os.RemoveAll(dir)
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}
