package node

import (
	"context"
	"errors"
	"time"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// roomInterval is how often a gateway that started on a full disk looks whether it may write its entry.
const roomInterval = 5 * time.Second

func (n *Node) disk() api.Disk {
	r := n.store.Room()
	return api.Disk{ReadOnly: r.ReadOnly, Free: r.Free, Needed: r.Needed}
}

// announceLater writes what this gateway says of itself as soon as there is room, where there was none at its start.
func (n *Node) announceLater(ctx context.Context, p *parts) error {
	for sleep(ctx, roomInterval) == nil {
		switch err := n.announceSelf(ctx, p); {
		case errors.Is(err, cluster.ErrReadOnly):
		case ctx.Err() != nil:
			return nil
		default:
			return err
		}
	}
	return nil
}
