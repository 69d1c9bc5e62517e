package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"gatemesh/mesh"
)

const (
	twinTrial = 2 * time.Minute // that joining an older twin may take; then this gateway is again what it was
	twinAgain = time.Hour       // not tried again before
)

// twinFile remembers when an older twin was joined last, also one that did not
// let this gateway in.
const twinFile = "twin.json"

// twinTry is the content of that file.
type twinTry struct {
	Cluster string    `json:"cluster"`
	At      time.Time `json:"at"`
}

// joinOlder has this gateway join an older twin if its own cluster has no
// devices: nothing is lost by that, and what it was is kept. It says whether
// it does; then this Node ends with [ErrReset].
func (n *Node) joinOlder(ctx context.Context, p *parts) bool {
	all := p.twins.list(time.Now())
	if len(all) == 0 || n.store.CountDevices() > 0 || n.store.Refusal() != nil {
		return false
	}
	oldest := all[0]
	if !oldest.older(n.born(), [8]byte(p.facts.cluster[:8])) {
		return false
	}
	name := fmt.Sprintf("%x", oldest.id)
	if last, err := n.lastTwin(); err != nil || last.Cluster == name && n.cfg.Now().Sub(last.At).Abs() < twinAgain {
		return false
	}
	// What was heard may be old; that the member is there is proven now.
	if id, err := mesh.Meet(ctx, n.key, n.cfg.Network, oldest.seen.From); err != nil || id != oldest.seen.ID {
		return false
	}
	key, err := n.clusterKey()
	if err != nil {
		return false
	}
	seed, _ := newSeed()
	note := resetNote{Saved: savedName(n.cfg.Now()), Seed: seed, Key: key.String(), Join: oldest.seen.From.String()}
	saved, err := n.noteReset(note, func() error {
		has, err := n.settledDevices(ctx)
		if err == nil && has > 0 {
			err = errDevicesCame
		}
		if err != nil {
			return err
		}
		return n.noteTwin(name)
	})
	if errors.Is(err, errDevicesCame) {
		return false
	}
	if err != nil {
		n.log.Error("the older cluster with our key is not joined", "err", err)
		return false
	}
	n.log.Warn("an older cluster has the same key, and this one no devices: this gateway joins it", "cluster", name,
		"at", oldest.seen.From, "saved", saved)
	n.giveUp()
	return true
}

var errDevicesCame = errors.New("devices were added meanwhile")

func (n *Node) lastTwin() (t twinTry, err error) {
	b, err := os.ReadFile(filepath.Join(n.cfg.Data, twinFile))
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	return t, err
}

func (n *Node) noteTwin(name string) error {
	b, err := json.Marshal(twinTry{name, n.cfg.Now()})
	if err == nil {
		err = WriteFile(filepath.Join(n.cfg.Data, twinFile), b)
	}
	return err
}

// trial bounds how long a twin is joined, of which nobody knows that it lets us
// in.
func (n *Node) trial(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, err := os.Stat(filepath.Join(n.cfg.Data, onTrialFile)); err != nil || n.cfg.Token != nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, twinTrial)
}
