package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport is the picture in ARCHITECTURE.md: which of our packages each of
// our packages may know. "+" before a name: in its tests only.
var mayImport = map[string][]string{
	".":             {"node/cli"},
	"node/cli":      {"node", "node/api"},
	"node":          {"cluster", "mesh", "vpn", "node/api", "+node/nodetest", "+node/labtest", "+vpn/vpntest"},
	"node/api":      {},
	"node/nodetest": {"node", "node/api", "mesh/meshtest", "vpn/vpntest"},
	"node/labtest":  {},
	"cluster":       {},
	"mesh":          {"+mesh/meshtest"},
	"mesh/meshtest": {"mesh"},
	"vpn":           {"+vpn/vpntest"},
	"vpn/vpntest":   {"vpn"},
	"bench":         {"+node", "+node/api", "+mesh/meshtest", "+vpn", "+vpn/vpntest"},
}

// TestImports holds the arrows between the packages, and fails for a package
// that has no place in the picture.
func TestImports(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" {
			if d != nil && d.IsDir() {
				return filepath.SkipDir
			}
			return err
		}
		if d.IsDir() {
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != "." {
				return filepath.SkipDir // another module
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		pkg := filepath.ToSlash(filepath.Dir(path))
		allowed, known := mayImport[pkg]
		if !known {
			t.Errorf("%s: package %s is not in the picture", path, pkg)
			return nil
		}
		seen[pkg] = true
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		test := strings.HasSuffix(path, "_test.go")
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			ours, ok := strings.CutPrefix(name, "gatemesh/")
			if !ok || test && ours == pkg {
				continue
			}
			if !slices.Contains(allowed, ours) && !(test && slices.Contains(allowed, "+"+ours)) {
				t.Errorf("%s imports %s: not an arrow of the picture", path, ours)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range []string{".", "node", "node/cli", "node/api", "cluster", "mesh", "vpn"} {
		if !seen[pkg] {
			t.Errorf("package %s of the picture is not there", pkg)
		}
	}
}
