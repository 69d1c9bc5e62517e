package cluster

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// SettingMaxInstances names the setting that bounds how many gateways serve. Without it,
// or while it is empty, their number is not bounded.
const SettingMaxInstances = "max-instances"

// MaxInstances is the greatest bound that may be set.
const MaxInstances = 10_000

// ParseMaxInstances reads the setting: a decimal number from 1 to 10000, as
// FormatMaxInstances writes it. It returns a *LimitError for another number.
func ParseMaxInstances(value []byte) (int, error) {
	n, err := strconv.Atoi(string(value))
	if err != nil || strconv.Itoa(n) != string(value) {
		return 0, fmt.Errorf("%s %.20q: want a number", SettingMaxInstances, value)
	}
	if n < 1 || n > MaxInstances {
		return 0, &LimitError{What: SettingMaxInstances, Got: n, Min: 1, Max: MaxInstances}
	}
	return n, nil
}

// FormatMaxInstances writes the setting.
func FormatMaxInstances(n int) []byte { return strconv.AppendInt(nil, int64(n), 10) }

// Instance is a member as Serving sees it: admitted and not evicted.
type Instance struct {
	Node  Node
	At    time.Time // of its admission, to the millisecond
	Limit int       // max-instances as the sponsor knew it; 0: not bounded
}

// Serving returns which members may serve devices, ascending by admission: each whose place
// in that order is within the limit of now or within the one under which it was admitted. A
// limit of zero bounds nothing. So lowering the limit stops nobody who served, and where two
// sides of a split both admitted the last one, the later of the two stops. The result depends
// on the arguments alone, not on their order; a node that is there twice counts once,
// as it was admitted first.
func Serving(members []Instance, limit int) []Node {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Instance) int {
		return cmp.Or(a.At.Compare(b.At), bytes.Compare(a.Node[:], b.Node[:]), cmp.Compare(a.Limit, b.Limit))
	})
	seen := map[Node]bool{}
	var serving []Node
	for _, m := range members {
		if seen[m.Node] {
			continue
		}
		place := len(seen)
		seen[m.Node] = true
		if within(place, limit) || within(place, m.Limit) {
			serving = append(serving, m.Node)
		}
	}
	return serving
}

func within(place, limit int) bool { return limit <= 0 || place < limit }
