package vpn

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/vpn/vpntest"
)

// victim is a gateway with a device that is connected, one that is enrolled and one whose response is awaited. Its
// parts are called by the test.
type victim struct {
	*Gateway
	t       *testing.T
	p       *peer    // connected
	far     *keypair // its end
	knocker          // enrolled
	waiting *peer    // its response is awaited
	mine    [initiationSize]byte
	asked   *knocker // the device of waiting
	out     *recorder
}

var (
	innerOfVictim = netip.MustParseAddr("10.0.0.9")
	intruder      = &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("198.51.100.66:666")}
)

func newVictim(t *testing.T) *victim {
	v := &victim{t: t}
	var enrolled []Device
	v.Gateway = idle(t)
	v.cfg.Lookup = func(k Key) (Device, bool) {
		i := slices.IndexFunc(enrolled, func(d Device) bool { return d.Key == k })
		return Device{Key: k}, i >= 0
	}
	v.p, v.far = live(t, v.Gateway, innerOfVictim)
	v.knocker, v.asked = *newKnocker(t, v.Gateway), newKnocker(t, v.Gateway)
	enrolled = []Device{{Key: v.knocker.identity.public}, {Key: v.asked.identity.public}}
	waiting, err := v.newPeer(Device{Key: v.asked.identity.public})
	if err != nil {
		t.Fatal(err)
	}
	v.waiting = v.adopt(waiting)
	if v.mine, _, err = v.makeInitiation(v.waiting, v.p.endpoint.Load()); err != nil {
		t.Fatal(err)
	}
	v.out = &recorder{Bind: v.cfg.Bind}
	v.cfg.Bind = v.out
	return v
}

// hear hands the gateway a datagram, and lets a worker do what it asks for.
func (v *victim) hear(m []byte) {
	buffer := make([]byte, bufferSize)
	r := &receiver{g: v.Gateway}
	r.datagram(buffer, copy(buffer, m), intruder, v.now())
	r.flush(v.now())
	for d := v.intake.take(); d != nil; d = v.intake.take() {
		v.handle(d)
	}
}

// initiation is a good one of the enrolled device.
func (v *victim) initiation() []byte { return v.knocker.knock(v.t).message() }

// response is a good one of the device that it is awaited of.
func (v *victim) response() []byte {
	in, err := v.asked.openInitiation(v.mine[:])
	if err != nil {
		v.t.Fatal(err)
	}
	if _, err := in.openTimestamp(&v.asked.secret); err != nil {
		v.t.Fatal(err)
	}
	m, _, err := in.respond(v.asked.to.public, new(Key), 77)
	if err != nil {
		v.t.Fatal(err)
	}
	putMAC1(&v.asked.to.mac1Key, m[:])
	return m[:]
}

// macked completes a handshake message whose other bytes were tampered with.
func (v *victim) macked(m []byte) []byte {
	putMAC1(&v.Gateway.identity.mac1Key, m)
	return m
}

func message(kind uint32, n int) []byte {
	m := make([]byte, n)
	le.PutUint32(m, kind)
	return m
}

func flip(m []byte, at int) []byte {
	m = slices.Clone(m)
	m[at] ^= 1
	return m
}

// progress are the counters that rise for good messages.
var progress = []string{"RxPackets", "RxBytes", "InitiationsReceived", "InitiationsInjected", "Unreachable", "UnderLoad"}

// raised names the counters of trouble that rose, once for each time.
func raised(before, after Stats) (names []string) {
	b, a := reflect.ValueOf(before), reflect.ValueOf(after)
	for i := range b.NumField() {
		name := b.Type().Field(i).Name
		if slices.Contains(progress, name) {
			continue
		}
		for range a.Field(i).Uint() - b.Field(i).Uint() {
			names = append(names, name)
		}
	}
	return names
}

// TestBadInput hands a gateway what it must refuse. Each raises one counter, nothing is answered, written to the TUN or
// changed, and the connected device is served afterwards.
func TestBadInput(t *testing.T) {
	for name, test := range map[string]struct {
		counter string
		offer   func(v *victim)
	}{
		"truncated initiation":           {"Malformed", func(v *victim) { v.hear(v.initiation()[:147]) }},
		"truncated response":             {"Malformed", func(v *victim) { v.hear(v.response()[:91]) }},
		"truncated cookie":               {"Malformed", func(v *victim) { v.hear(message(typeCookie, 63)) }},
		"truncated transport":            {"Malformed", func(v *victim) { v.hear(sealed(v.t, v.far, "")[:31]) }},
		"truncated transport with data":  {"Forged", func(v *victim) { v.hear(sealed(v.t, v.far, "0123456789abcdef")[:40]) }},
		"oversized initiation":           {"Malformed", func(v *victim) { v.hear(append(v.initiation(), 0)) }},
		"oversized response":             {"Malformed", func(v *victim) { v.hear(append(v.response(), 0)) }},
		"oversized cookie":               {"Malformed", func(v *victim) { v.hear(message(typeCookie, 65)) }},
		"oversized transport":            {"Forged", func(v *victim) { v.hear(append(sealed(v.t, v.far, ""), make([]byte, 65000)...)) }},
		"type 0":                         {"Malformed", func(v *victim) { v.hear(message(0, 148)) }},
		"type 5":                         {"Malformed", func(v *victim) { v.hear(message(5, 148)) }},
		"reserved byte":                  {"Malformed", func(v *victim) { v.hear(flip(v.initiation(), 3)) }},
		"response as initiation":         {"Malformed", func(v *victim) { v.hear(message(typeInitiation, responseSize)) }},
		"one byte":                       {"Malformed", func(v *victim) { v.hear([]byte{4}) }},
		"initiation without mac1":        {"BadMAC", func(v *victim) { v.hear(flip(v.initiation(), 116)) }},
		"response without mac1":          {"BadMAC", func(v *victim) { v.hear(flip(v.response(), 60)) }},
		"initiation to another cluster":  {"BadMAC", func(v *victim) { v.hear(newVictim(v.t).initiation()) }},
		"our initiation reflected":       {"BadMAC", func(v *victim) { v.hear(v.mine[:]) }},
		"our data reflected":             {"UnknownIndex", func(v *victim) { v.hear(sealed(v.t, v.p.current.Load(), "")) }},
		"initiation, forged ephemeral":   {"BadHandshake", func(v *victim) { v.hear(v.macked(flip(v.initiation(), 8))) }},
		"initiation, zero ephemeral":     {"BadHandshake", func(v *victim) { v.hear(v.macked(append(v.initiation()[:8], make([]byte, 140)...))) }},
		"initiation, forged static":      {"BadHandshake", func(v *victim) { v.hear(v.macked(flip(v.initiation(), 40))) }},
		"initiation, forged timestamp":   {"BadHandshake", func(v *victim) { v.hear(v.macked(flip(v.initiation(), 88))) }},
		"initiation of unknown device":   {"UnknownDevice", func(v *victim) { v.hear(newKnocker(v.t, v.Gateway).knock(v.t).message()) }},
		"response that nobody awaits":    {"BadHandshake", func(v *victim) { v.hear(v.macked(flip(v.response(), 8))) }},
		"response, forged ephemeral":     {"BadHandshake", func(v *victim) { v.hear(v.macked(flip(v.response(), 12))) }},
		"response, forged tag":           {"BadHandshake", func(v *victim) { v.hear(v.macked(flip(v.response(), 44))) }},
		"response, too late":             {"BadHandshake", func(v *victim) { m := v.response(); v.Slept(6 * time.Second); v.hear(m) }},
		"cookie for nobody":              {"BadHandshake", func(v *victim) { v.hear(message(typeCookie, cookieSize)) }},
		"cookie, forged":                 {"BadHandshake", func(v *victim) { m := message(typeCookie, cookieSize); copy(m[4:8], v.mine[4:8]); v.hear(m) }},
		"data for nobody":                {"UnknownIndex", func(v *victim) { v.hear(flip(sealed(v.t, v.far, ""), 6)) }},
		"data, forged counter":           {"Forged", func(v *victim) { v.hear(flip(sealed(v.t, v.far, ""), 9)) }},
		"data, forged":                   {"Forged", func(v *victim) { v.hear(flip(sealed(v.t, v.far, "data"), 17)) }},
		"data, old keys":                 {"Expired", func(v *victim) { m := sealed(v.t, v.far, ""); v.Slept(RejectAfterTime); v.hear(m) }},
		"data, replayed":                 {"Replayed", func(v *victim) { m := sealed(v.t, v.far, ""); v.hear(m); v.hear(m) }},
		"data, last counter and one":     {"Replayed", func(v *victim) { v.hear(beyond(v.t, v.far)) }},
		"data, no packet":                {"BadPacket", func(v *victim) { v.hear(sealed(v.t, v.far, "no packet at all")) }},
		"data, packet cut short":         {"BadPacket", func(v *victim) { v.hear(sealed(v.t, v.far, string(echoOf(innerOfVictim)[:40]))) }},
		"data, another's address":        {"BadSource", func(v *victim) { v.hear(sealed(v.t, v.far, string(echoOf(innerOfVictim.Next())))) }},
		"data, another family's address": {"BadSource", func(v *victim) { v.hear(sealed(v.t, v.far, string(echoOf(absent6)))) }},
		"handed over: no initiation":     {"Malformed", func(v *victim) { v.Inject(message(typeResponse, responseSize), intruder.AddrPort) }},
		"handed over: no address":        {"Malformed", func(v *victim) { v.Inject(v.initiation(), netip.AddrPort{}) }},
		"called at no address":           {"RequestsDropped", func(v *victim) { v.Initiate(v.knocker.identity.public, netip.AddrPortFrom(innerOfVictim, 0)) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVictim(t)
				at, before := v.p.endpoint.Load(), v.Stats()
				test.offer(v)
				if got := raised(before, v.Stats()); !slices.Equal(got, []string{test.counter}) {
					t.Errorf("raised %v, want %s", got, test.counter)
				}
				if len(v.out.sent) != 0 || len(v.tun().(*vpntest.TUN).Packets()) != 0 {
					t.Error("something came of it")
				}
				authentic := slices.Contains([]string{"Replayed", "BadPacket", "BadSource"}, test.counter)
				if !authentic && v.p.endpoint.Load() != at {
					t.Error("the connected device was led away")
				}
				if len(v.live()) != 2 || v.waiting.pending == nil || !v.waiting.keyless() {
					t.Error("a device's state changed")
				}
			})
		})
	}
}

// Good messages, once more: what is new the first time is refused the second, and nothing is answered twice.
func TestReplaysAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVictim(t)
		initiation, response := v.initiation(), v.response()
		v.hear(initiation)
		v.hear(response)
		if s := v.Stats(); s.ResponsesSent != 1 || s.ResponsesReceived != 1 || v.waiting.current.Load() == nil {
			t.Fatalf("good messages are refused: %+v", s)
		}
		sent, before, keys := len(v.out.sent), v.Stats(), v.waiting.current.Load()
		time.Sleep(time.Second)
		v.hear(initiation)
		v.hear(response)
		if got := raised(before, v.Stats()); !slices.Equal(got, []string{"BadHandshake", "StaleTimestamp"}) {
			t.Errorf("raised %v", got)
		}
		if len(v.out.sent) != sent || v.waiting.current.Load() != keys {
			t.Error("a replay was answered")
		}
		before = v.Stats()
		v.hear(v.initiation())
		v.hear(v.initiation())
		if got := raised(before, v.Stats()); !slices.Contains(got, "TooFrequent") {
			t.Errorf("raised %v", got)
		}
	})
}

// beyond is an authentic message with the first counter that is not accepted any more.
func beyond(t *testing.T, kp *keypair) []byte {
	t.Helper()
	b := make([]byte, keepaliveSize)
	le.PutUint32(b, typeTransport)
	le.PutUint32(b[4:], kp.sealer.remote)
	le.PutUint64(b[8:], RejectAfterMessages)
	le.PutUint64(kp.sealer.nonce[4:], RejectAfterMessages)
	kp.sealer.aead.Seal(b[headerSize:headerSize], kp.sealer.nonce[:], nil, nil)
	return b
}

func echoOf(from netip.Addr) []byte {
	to := netip.MustParseAddr("10.0.0.1")
	if from.Is6() {
		to = netip.MustParseAddr("fd00::1")
	}
	return vpntest.EchoRequest(from, to, 1, 1, make([]byte, 20))
}
