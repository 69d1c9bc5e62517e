package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

// Kinds of calls by which two gateways make equal what should be equal already.
const (
	kindBuckets = "buckets" // the prints of all that the other has
	kindPage    = "page"    // the cells of some buckets, page by page
	kindRepair  = "repair"  // do the same with us
)

const (
	repairTimeout = 10 * time.Minute
	maxPlace      = 512 // bytes of a place in the store
)

var (
	errRepair    = errors.New("malformed exchange of data")
	errRepairing = errors.New("an exchange is under way already")
)

// pageOf is the body of kindPage.
type pageOf struct {
	Buckets []byte `cbor:"1,keyasint"`
	After   []byte `cbor:"2,keyasint,omitempty"`
}

// page is its answer.
type page struct {
	Part []byte `cbor:"1,keyasint"`
	Next []byte `cbor:"2,keyasint,omitempty"` // none: that was all
}

// repair exchanges with a peer the cells in which both differ, both ways.
func (n *Node) repair(ctx context.Context, p *parts, peer cluster.Node) (r api.Resynced, err error) {
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	if r.Buckets, r.Received, err = n.takeFrom(ctx, p, peer); err != nil {
		return r, err
	}
	b, err := p.mesh.Call(ctx, mesh.ID(peer), kindRepair, nil)
	if err == nil {
		err = cbor.Unmarshal(b, &r.Sent)
	}
	if err == nil && (r.Buckets > 0 || r.Sent > 0) {
		n.log.Warn("data exchanged that should have been equal", "peer", peer, "buckets", r.Buckets, "received", r.Received, "sent", r.Sent)
	}
	return r, err
}

// takeFrom takes in what a peer has in the buckets that differ. It returns how many differ and how many entities
// changed here.
func (n *Node) takeFrom(ctx context.Context, p *parts, peer cluster.Node) (differ, changed int, err error) {
	if !p.repairing.TryLock() {
		return 0, 0, errRepairing
	}
	defer p.repairing.Unlock()
	b, err := p.mesh.Call(ctx, mesh.ID(peer), kindBuckets, nil)
	if err != nil {
		return 0, 0, err
	}
	theirs, err := decodeBuckets(b)
	if err != nil {
		return 0, 0, err
	}
	ours, err := n.store.Buckets()
	if err != nil {
		return 0, 0, err
	}
	buckets := ours.Differ(&theirs)
	for after := []byte(nil); len(buckets) > 0; {
		b, err := p.mesh.Call(ctx, mesh.ID(peer), kindPage, encodeBody(pageOf{buckets, after}))
		if err != nil {
			return 0, 0, err
		}
		var got page
		if err := cbor.Unmarshal(b, &got); err != nil {
			return 0, 0, fmt.Errorf("%w: %w", errRepair, err)
		}
		some, err := n.store.Mend(got.Part)
		if err != nil {
			return 0, 0, err
		}
		changed += some
		if len(got.Next) == 0 {
			break
		}
		if slices.Compare(got.Next, after) <= 0 {
			return 0, 0, fmt.Errorf("%w: pages do not come in order", errRepair)
		}
		after = got.Next
	}
	return len(buckets), changed, nil
}

func decodeBuckets(b []byte) (out cluster.Buckets, err error) {
	var list []uint64
	if err := cbor.Unmarshal(b, &list); err != nil || len(list) != len(out) {
		return out, fmt.Errorf("%w: buckets", errRepair)
	}
	return cluster.Buckets(list), nil
}

// encodeBody encodes a body of ours, which cannot fail.
func encodeBody(v any) []byte {
	b, err := cbor.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func (n *Node) onBuckets(context.Context, mesh.ID, []byte) ([]byte, error) {
	b, err := n.store.Buckets()
	if err != nil {
		return nil, err
	}
	return encodeBody(b[:]), nil
}

func (n *Node) onPage(_ context.Context, _ mesh.ID, body []byte) ([]byte, error) {
	var of pageOf
	if err := cbor.Unmarshal(body, &of); err != nil || len(of.Buckets) > len(cluster.Buckets{}) || len(of.After) > maxPlace {
		return nil, errRepair
	}
	part, next, err := n.store.Page(of.Buckets, of.After)
	if err != nil {
		return nil, err
	}
	return encodeBody(page{part, next}), nil
}

func (n *Node) onRepair(p *parts) mesh.Handler {
	return func(ctx context.Context, from mesh.ID, _ []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, repairTimeout)
		defer cancel()
		_, changed, err := n.takeFrom(ctx, p, cluster.Node(from))
		if err != nil {
			return nil, err
		}
		return encodeBody(changed), nil
	}
}
