package vpn

// Keepalive sends the device an empty message now, if there are keys for it. A device follows whoever it heard last,
// so this calls back one that a late packet of its former gateway may have led away.
func (g *Gateway) Keepalive(k Key) {
	if p := g.peer(k); p != nil {
		g.sendKeepalive(p)
	}
}
