package node

import (
	"context"
	"time"
)

// clockInterval is how long an accepted initiation may be forgotten by a crash
// of all gateways at once.
const clockInterval = time.Second

// clockTimeout bounds one attempt to write clocks.
const clockTimeout = 5 * time.Second

// keepClocks writes down the greatest TAI64N received from each device, by
// whichever gateway: after a restart of all, an old initiation is still known
// as such.
func (n *Node) keepClocks(ctx context.Context, p *parts) error {
	tick := time.NewTicker(clockInterval)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := n.saveClocks(ctx, p)
		if err != nil && !failed && ctx.Err() == nil {
			n.log.Error("clocks of devices are not kept", "err", err)
		}
		failed = err != nil
	}
}

func (n *Node) saveClocks(ctx context.Context, p *parts) error {
	clocks := p.sessions.Renewed()
	if len(clocks) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	err := n.store.SaveClocks(ctx, clocks)
	if err != nil {
		p.sessions.Unsaved(clocks)
	}
	return err
}
