package vpn

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// watchLink makes whether the interface is up an event. The module's own listeners do not notice that an interface
// with offloads goes down: its empty write is refused for its form first. It ends when t.unwatch is closed.
func (t *TUN) watchLink() error {
	updates := make(chan netlink.LinkUpdate, 16)
	unwatch := make(chan struct{})
	if err := netlink.LinkSubscribe(updates, unwatch); err != nil {
		return fmt.Errorf("watch interface: %w", err)
	}
	t.unwatch = unwatch
	t.g.Go(func() error { return t.followLink(updates) })
	return nil
}

func (t *TUN) followLink(updates <-chan netlink.LinkUpdate) error {
	for u := range updates {
		if int(u.Index) != t.link.Attrs().Index {
			continue
		}
		e := tun.Event(tun.EventDown)
		if u.Flags&unix.IFF_UP != 0 {
			e = tun.EventUp
		}
		t.tell(e)
	}
	return nil
}

// tell never blocks; what nobody takes is dropped.
func (t *TUN) tell(e tun.Event) {
	select {
	case t.events <- e:
	default:
	}
}
