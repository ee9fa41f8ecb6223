package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weft/integration/services"
)

// TestImportRule proves that the rule on imports in .golangci.yml catches a wrong import, and lets a right one pass: each
// case is a module of the same shape with that one import.
func TestImportRule(t *testing.T) {
	root, err := services.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := services.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	linter := filepath.Join(cache, "bin", "golangci-lint")
	if _, err := os.Stat(linter); err != nil {
		need(t, "golangci-lint in the cache (make install builds it)")
	}

	imports := []struct {
		file, imports string
		wrong         bool
	}{
		{file: "sources/bad.go", imports: "weft/sink", wrong: true},
		{file: "sources/bad_test.go", imports: "weft/sources/sourcetest", wrong: true},
		{file: "sources/postgres/good.go", imports: "weft/sources"},
		{file: "sources/postgres/own.go", imports: "weft/sources/postgres/pgoutput"},
		{file: "sources/postgres/suite_test.go", imports: "weft/sources/sourcetest"},
		{file: "sources/postgres/bad.go", imports: "weft/checkpoint", wrong: true},
		{file: "sources/postgres/other.go", imports: "weft/sources/polling", wrong: true},
		{file: "sources/postgres/suite.go", imports: "weft/sources/sourcetest", wrong: true},
		{file: "sources/postgres/pgoutput/bad.go", imports: "weft/sink", wrong: true},
		{file: "sources/postgres/bad_test.go", imports: "weft/sink", wrong: true},
		{file: "sources/postgres/visibility/bad.go", imports: "weft/sources", wrong: true},
		{file: "snapshot/good.go", imports: "weft/checkpoint"},
		{file: "snapshot/bad.go", imports: "weft/sources/postgres/visibility", wrong: true},
		{file: "snapshot/simulate_test.go", imports: "weft/sources/postgres/visibility"},
		{file: "snapshot/bad_test.go", imports: "weft/sources/postgres", wrong: true},
		{file: "sources/mongodb/good.go", imports: "weft/sources"},
		{file: "sources/mongodb/own.go", imports: "weft/sources/mongodb/extjson"},
		{file: "sources/mongodb/suite_test.go", imports: "weft/sources/sourcetest"},
		{file: "sources/mongodb/bad.go", imports: "weft/sources/postgres", wrong: true},
		{file: "sources/mongodb/bad_test.go", imports: "weft/sink", wrong: true},
		{file: "sources/polling/good.go", imports: "weft/sources"},
		{file: "sources/polling/shared.go", imports: "weft/sources/pgurl"},
		{file: "sources/postgres/shared.go", imports: "weft/sources/pgurl"},
		{file: "sources/mongodb/shared.go", imports: "weft/sources/pgurl", wrong: true},
		{file: "sources/pgurl/bad.go", imports: "weft/sources", wrong: true},
		{file: "sources/polling/bad.go", imports: "weft/sources/postgres", wrong: true},
		{file: "sources/spanner/good.go", imports: "weft/sources"},
		{file: "sources/spanner/suite_test.go", imports: "weft/sources/sourcetest"},
		{file: "sources/spanner/bad.go", imports: "weft/sources/polling", wrong: true},
		{file: "sources/spanner/shared.go", imports: "weft/sources/jsonscan"},
		{file: "sources/jsonscan/bad.go", imports: "weft/sources", wrong: true},
		{file: "sink/fold/good.go", imports: "weft/sources/jsonscan"},
		{file: "sources/sourcetest/good.go", imports: "weft/sources"},
		{file: "sources/sourcetest/bad.go", imports: "weft/sources/postgres", wrong: true},
		{file: "sources/all/good.go", imports: "weft/sources/postgres"},
		{file: "sources/all/bad.go", imports: "weft/configs", wrong: true},
		{file: "checkpoint/good.go", imports: "weft/sources"},
		{file: "checkpoint/bad.go", imports: "weft/sink", wrong: true},
		{file: "checkpoint/store.go", imports: "weft/sources/postgres", wrong: true},
		{file: "snapshot/archive/good.go", imports: "weft/sink/fold"},
		{file: "snapshot/replay/good.go", imports: "weft/sink/scratch"},
		{file: "snapshot/archive/bad.go", imports: "weft/sink", wrong: true},
		{file: "snapshot/bad.go", imports: "weft/sink/fold", wrong: true},
		{file: "sink/good.go", imports: "weft/checkpoint"},
		{file: "sink/own.go", imports: "weft/sink/embedded"},
		{file: "sink/bad.go", imports: "weft/configs", wrong: true},
		{file: "sink/embedded/bad.go", imports: "weft/configs", wrong: true},
		{file: "configs/good.go", imports: "weft/sources/all"},
		{file: "configs/bad.go", imports: "weft/sink", wrong: true},
		{file: "cmd/weft/internal/pipeline/good.go", imports: "weft/sink"},
		{file: "cmd/weft/internal/pipeline/bad.go", imports: "weft/sources/postgres", wrong: true},
		{file: "cmd/weft/good.go", imports: "weft/cmd/weft/internal/pipeline"},
		{file: "cmd/weft/all.go", imports: "weft/sources/all"},
	}
	for _, i := range imports {
		t.Run(i.file+" imports "+i.imports, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write := func(file, text string) {
				t.Helper()
				path := filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			write("go.mod", "module weft\n\ngo 1.26.0\n")
			write(strings.TrimPrefix(i.imports, "weft/")+"/stub.go", "package "+filepath.Base(i.imports)+"\n")
			write(i.file, "package "+filepath.Base(filepath.Dir(i.file))+"\n\nimport _ \""+i.imports+"\"\n")

			cmd := exec.Command(linter, "run", "--config", filepath.Join(root, ".golangci.yml"), "--enable-only", "depguard",
				"--allow-parallel-runners", "./...")
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if caught := bytes.Contains(out, []byte("(depguard)")); caught != i.wrong || (err != nil) != i.wrong {
				t.Errorf("caught: %v, want %v (%v)\n%s", caught, i.wrong, err, out)
			}
		})
	}
}
