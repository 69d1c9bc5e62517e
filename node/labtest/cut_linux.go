package labtest

import (
	"fmt"
	"strings"
)

// Cut lets nothing pass on the internet from the nodes of a to those of b, and
// nothing back; it takes the place of an earlier one. It happens in the switch:
// nobody is told.
func (l *Lab) Cut(a, b []*Node) {
	l.tb.Helper()
	l.cut(between(a, b) + between(b, a))
}

// CutOneWay is Cut from a to b; the other way everything passes.
func (l *Lab) CutOneWay(a, b []*Node) {
	l.tb.Helper()
	l.cut(between(a, b))
}

// Mend ends what Cut or CutOneWay has begun.
func (l *Lab) Mend() {
	l.tb.Helper()
	l.cut("")
}

func (l *Lab) cut(rules string) {
	l.tb.Helper()
	text := fmt.Sprintf(`
table bridge cut {}
delete table bridge cut
table bridge cut {
	chain forward { type filter hook forward priority 0; %s }
}
`, rules)
	if _, err := l.sw.Try(text, "nft", "-f", "-"); err != nil {
		l.tb.Fatalf("cut the network: %v", err)
	}
}

// between is the rule that drops what goes from a to b.
func between(a, b []*Node) string {
	ports := func(nodes []*Node) string {
		names := make([]string, len(nodes))
		for i, n := range nodes {
			names[i] = fmt.Sprintf("%q", n.port)
		}
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("iifname { %s } oifname { %s } drop; ", ports(a), ports(b))
}
