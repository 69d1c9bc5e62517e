package vpn

import (
	"testing"

	"golang.zx2c4.com/wireguard/replay"
	"pgregory.net/rapid"
)

// Whatever counters come, in whatever order, a window says what the module's filter says.
func TestWindowIsTheFilter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w window
		var f replay.Filter
		near := rapid.Uint64Range(0, 2*smallWindow)
		far := rapid.OneOf(rapid.Uint64Range(0, 20000), rapid.Uint64(), rapid.Uint64Range(RejectAfterMessages-2, RejectAfterMessages+2))
		early := rapid.SliceOf(rapid.Uint64Range(0, smallWindow-1)).Draw(t, "early")
		mixed := rapid.SliceOf(rapid.OneOf(near, far)).Draw(t, "mixed")
		late := rapid.SliceOf(near).Draw(t, "late")
		for i, counter := range append(append(early, mixed...), late...) {
			got, want := w.ValidateCounter(counter, RejectAfterMessages), f.ValidateCounter(counter, RejectAfterMessages)
			if got != want {
				t.Fatalf("counter %d, the %dth: %v, want %v", counter, i, got, want)
			}
		}
	})
}
