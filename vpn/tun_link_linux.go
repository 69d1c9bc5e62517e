package vpn

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// relinkPause is between two subscriptions to what the kernel says of interfaces.
const relinkPause = 100 * time.Millisecond

// watchLink makes whether the interface is up an event. The module's own listeners do not notice that an interface
// with offloads goes down: its empty write is refused for its form first. It ends when t.unwatch is closed.
func (t *TUN) watchLink() error {
	updates := make(chan netlink.LinkUpdate, 16)
	unwatch := make(chan struct{})
	if err := netlink.LinkSubscribe(updates, unwatch); err != nil {
		return fmt.Errorf("watch interface: %w", err)
	}
	t.unwatch = unwatch
	t.g.Go(func() error { return t.followLink(updates, unwatch) })
	return nil
}

// followLink subscribes again when the kernel had more to say than its queue holds, and asks how the interface is then.
// Where that fails it says that the interface is down, so that it is made anew.
func (t *TUN) followLink(updates chan netlink.LinkUpdate, unwatch <-chan struct{}) error {
	for {
		for u := range updates {
			t.tellLink(u)
		}
		select {
		case <-unwatch:
			return nil
		case <-time.After(relinkPause):
		}
		updates = make(chan netlink.LinkUpdate, 16)
		asking := netlink.LinkSubscribeOptions{ListExisting: true}
		if err := netlink.LinkSubscribeWithOptions(updates, unwatch, asking); err != nil {
			t.tell(tun.EventDown)
			return nil //nolint:nilerr // told
		}
	}
}

func (t *TUN) tellLink(u netlink.LinkUpdate) {
	if int(u.Index) != t.link.Attrs().Index {
		return
	}
	e := tun.Event(tun.EventDown)
	if u.Flags&unix.IFF_UP != 0 {
		e = tun.EventUp
	}
	t.tell(e)
}

// tell never blocks; what nobody takes is dropped.
func (t *TUN) tell(e tun.Event) {
	select {
	case t.events <- e:
	default:
	}
}
