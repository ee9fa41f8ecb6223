package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// duckDB reads the archives, as one of the programs that are not Weft's.
const duckDB = "duckdb==2.0.1"

// installPython makes a virtual environment with one package, and returns its folder.
func installPython(ctx context.Context, cache, requirement string, log io.Writer) (string, error) {
	home := filepath.Join(cache, requirement)
	if _, err := os.Stat(home); err == nil {
		return home, nil
	}
	fmt.Fprintf(log, "services: installing %s into %s\n", requirement, home)
	if _, err := exec.LookPath("python3"); err != nil {
		return "", errors.New("python3 is not on PATH: run integration/install-tools.sh as root, or install Python 3 with venv")
	}
	temp, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	for _, args := range [][]string{
		{"python3", "-m", "venv", temp},
		{filepath.Join(temp, "bin", "python3"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("install %s with %s: %w", requirement, args[0], err)
		}
	}
	return home, os.Rename(temp, home)
}
