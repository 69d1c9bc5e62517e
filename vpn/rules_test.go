package vpn

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// values are the constants that docs/wireguard.md names.
var values = map[string]any{
	"RekeyAfterMessages": uint64(RekeyAfterMessages), "RejectAfterMessages": uint64(RejectAfterMessages),
	"RekeyAfterTime": RekeyAfterTime, "RejectAfterTime": RejectAfterTime, "RekeyAttemptTime": RekeyAttemptTime,
	"RekeyTimeout": RekeyTimeout, "KeepaliveTimeout": KeepaliveTimeout, "rekeyTimeoutJitter": rekeyTimeoutJitter,
	"maxAttempts": maxAttempts, "rekeyOnReceive": rekeyOnReceive, "newHandshakeAfter": newHandshakeAfter,
	"eraseAfter": eraseAfter, "initiationInterval": initiationInterval, "cookieLifetime": cookieLifetime,
	"paddingMultiple": paddingMultiple, "initiationSize": initiationSize, "responseSize": responseSize,
	"cookieSize": cookieSize, "keepaliveSize": keepaliveSize,
}

// TestRules fails when docs/wireguard.md names a test or a file that is not there, or a constant with another value,
// or a rule without a test.
func TestRules(t *testing.T) {
	page, err := os.ReadFile("../docs/wireguard.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testNames(t, ".", "../node")
	constants := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || len(cells) != 4 || strings.Contains(line, "---") || strings.HasSuffix(line, "| tests |\n") {
			continue
		}
		rule, second, third := strings.TrimSpace(cells[0]), strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2])
		if value, ok := values[rule]; ok {
			constants++
			if fmt.Sprint(value) != second {
				t.Errorf("%s is %v, the page says %s", rule, value, second)
			}
		} else if _, err := os.Stat(third); err != nil {
			t.Errorf("%s: %v", rule, err)
		}
		for name := range strings.SplitSeq(cells[3], ",") {
			if name = strings.TrimSpace(name); !tests[name] {
				t.Errorf("%s: there is no test %q", rule, name)
			}
		}
	}
	if constants != len(values) {
		t.Errorf("the page names %d of %d constants", constants, len(values))
	}
}

// testNames are the tests and fuzz targets in directories, whatever they are built for.
func testNames(t *testing.T, dirs ...string) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range function.FindAllSubmatch(b, -1) {
				names[string(m[1])] = true
			}
		}
	}
	return names
}
