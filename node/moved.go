package node

import (
	"context"
	"time"
)

// placeInterval is how often the mesh is asked whether our address is another.
const placeInterval = time.Second

// keepPlace writes anew what this gateway says of itself when its address has
// changed, so that others and new devices find it.
func (n *Node) keepPlace(ctx context.Context, p *parts) error {
	for was := p.mesh.Addr(); sleep(ctx, placeInterval) == nil; {
		is := p.mesh.Addr()
		if is == was {
			continue
		}
		if err := n.announceSelf(ctx, p); err != nil {
			if ctx.Err() == nil {
				n.log.Warn("the others are not told of our new address yet", "err", err)
			}
			continue
		}
		n.log.Info("this gateway has another address", "mesh", is, "public", n.offers().Public)
		was = is
	}
	return nil
}
