package vpntest

import (
	"reflect"
	"runtime"

	"golang.zx2c4.com/wireguard/device"
)

// keepFinalizersOut removes the finalizers of a peer's two queues. They would drain channels, which the runtime forbids
// outside the bubble in which the device was made, and finalizers run outside. Nothing but garbage is left undrained.
func keepFinalizersOut(p *device.Peer) {
	queues := reflect.ValueOf(p).Elem().FieldByName("queue")
	for _, name := range []string{"inbound", "outbound"} {
		q := queues.FieldByName(name)
		runtime.SetFinalizer(reflect.NewAt(q.Type().Elem(), q.UnsafePointer()).Interface(), nil)
	}
}
