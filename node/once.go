package node

import (
	"context"
	"errors"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

var _ api.Memory = (*Node)(nil)

// Recall implements [api.Memory].
func (n *Node) Recall(_ context.Context, r api.Request) ([]byte, error) {
	return n.store.Answer(cluster.OnceID(r))
}

// Remember implements [api.Memory]. What does not fit is not kept: the request is then only not carried out twice.
func (n *Node) Remember(ctx context.Context, r api.Request, answer []byte) error {
	return n.store.KeepAnswer(ctx, cluster.OnceID(r), answer)
}

// once has the store carry out the step-th write of a request once.
func once(ctx context.Context, step byte) context.Context {
	r, ok := api.RequestOf(ctx)
	if !ok {
		return ctx
	}
	id := cluster.OnceID(r)
	id[0] ^= step
	return cluster.Once(ctx, id)
}

// findOnce is FindDevice for the first write of a request, which returns cluster.ErrRepeated where that write was
// carried out before and the device is no longer found by what it was called.
func (n *Node) findOnce(ctx context.Context, ref string) (cluster.Device, error) {
	d, err := n.store.FindDevice(ref)
	if r, ok := api.RequestOf(ctx); ok && errors.Is(err, cluster.ErrNotFound) {
		if done, e := n.store.Done(cluster.OnceID(r)); e != nil || done {
			return d, errors.Join(e, cluster.ErrRepeated)
		}
	}
	return d, err
}

// done is the error of a write that may have been carried out before.
func done(err error) error {
	if errors.Is(err, cluster.ErrRepeated) {
		return nil
	}
	return err
}
