package vpn

// Keepalive sends the device an empty message now, if there are keys for it. A device follows whoever it heard last,
// so this calls back one that a late packet of its former gateway may have led away. A device that was taken over and has
// not been heard since is sent one under each of its keys.
func (g *Gateway) Keepalive(k Key) {
	if p := g.peer(k); p != nil {
		g.sendKeepalive(p)
	}
}

// Abandon gives up what Initiate began, because the device's own gateway is there after all. A device that has keys
// here is left as it is.
func (g *Gateway) Abandon(k Key) {
	p := g.peer(k)
	if p != nil && p.current.Load() == nil {
		g.Drop(k)
	}
}
