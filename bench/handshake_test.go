//go:build unix

package bench

import (
	"testing"
	"time"
)

// BenchmarkHandshakeResponder answers initiations of 1,000 devices, 64 at once. The initiations are made beforehand;
// sessions are not confirmed. 10⁹ ÷ cpu-ns/op is handshakes per second and core.
func BenchmarkHandshakeResponder(b *testing.B) {
	const n, window = 1000, 64
	for _, kind := range engines {
		b.Run("engine="+kind.name, func(b *testing.B) {
			e := newEngine(b, kind.start, n)
			e.enrol(0, n)
			initiations, now := make([][]byte, b.N), time.Now()
			for i := range initiations {
				var err error
				at := now.Add(time.Duration(i/n) * time.Second) // a clock that goes on
				if initiations[i], _, err = e.devices[i%n].Initiate(uint32(i), at); err != nil {
					b.Fatal(err)
				}
			}
			room := make(chan struct{}, window)
			var answered counter
			e.onSent(func(messages [][]byte) {
				for _, m := range messages {
					if m[0] != 2 {
						b.Errorf("a message of type %d instead of a response", m[0])
					}
					<-room
					answered.add(1)
				}
			})
			answered.expect(b.N)
			var cpu meter
			b.ReportAllocs()
			b.ResetTimer()
			cpu.on(b)
			for _, m := range initiations {
				select {
				case room <- struct{}{}:
				case <-time.After(patience):
					b.Fatal("no answer")
				}
				e.in <- [][]byte{m}
			}
			answered.wait(b)
			cpu.off(b)
			cpu.report(b)
		})
	}
}
