package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"gatemesh/mesh"
)

// restoredFile says that this gateway was made from a backup and that no member
// of old has admitted it yet: its admission by itself is known to nobody. Without
// that admission the restore was cut short.
const restoredFile = "restored"

// returnPause is how long a restored gateway waits between two rounds of asking
// the members that its backup knows.
const returnPause = 5 * time.Second

// cutShort refuses a directory that a restore was not done with.
func (n *Node) cutShort() error {
	if _, err := os.Stat(filepath.Join(n.cfg.Data, restoredFile)); err == nil {
		return hintf("empty the directory, and restore the backup again", "a restore into %s was cut short", n.cfg.Data)
	}
	return nil
}

// comeBack has a gateway that was made from a backup admitted by a member of
// its cluster, if one is left: it proves the cluster key, as a newcomer does, and
// is given what has changed since the backup. Until then it serves
// alone.
func (n *Node) comeBack(ctx context.Context, p *parts) error {
	path := filepath.Join(n.cfg.Data, restoredFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	old := n.book() // before others join by us, who are no members of old
	n.log.Info("made from a backup; looking for the members of then", "addresses", len(old))
	for told := false; len(old) > 0; {
		err := n.introduceAny(ctx, p, old)
		if err == nil {
			break
		}
		if errors.Is(err, mesh.ErrWrongKey) && !told {
			told = true
			n.log.Warn("the cluster has another key than the backup; to get back into it, join it with a new data directory", "err", err)
		}
		var no *mesh.RefusedError
		if errors.As(err, &no) && no.Final && !told {
			told = true
			n.log.Warn("the cluster does not take this gateway back", "err", err, "hint", no.Hint)
		}
		if sleep(ctx, returnPause) != nil {
			return nil
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the restore: %w", err)
	}
	return nil
}

// introduceAny asks one member after the other and returns nil when one has admitted us.
func (n *Node) introduceAny(ctx context.Context, p *parts, members []netip.AddrPort) error {
	var errs []error
	for _, a := range members {
		err := n.introduce(ctx, p, a)
		if err == nil {
			n.log.Info("admitted by a member of before the backup", "addr", a)
			p.mesh.Connect([]netip.AddrPort{a})
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// introduce joins at one address.
func (n *Node) introduce(ctx context.Context, p *parts, a netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	key, err := n.clusterKey()
	if err != nil {
		return err
	}
	_, _, err = mesh.Join(ctx, mesh.JoinConfig{
		Key: n.key, Credential: mesh.Credential{Secret: key}, Name: n.name, Version: n.cfg.Version,
		Network: n.cfg.Network, State: n.store, Log: n.log.With("component", "mesh"),
		Welcomed: func(data []byte) error { return p.facts.isOf(data) },
	}, a)
	return err
}
