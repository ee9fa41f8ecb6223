package configs

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// maxSize bounds the config file, so that a wrong path cannot fill the memory.
const maxSize = 1 << 20

// Find gives the path of the config file: flag when it is not empty, else ./weft.yaml when it exists, else $WEFT_CONFIG.
func Find(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	const local = "weft.yaml"
	_, err := os.Stat(local)
	if err == nil {
		return local, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("look for a config file: %w", err)
	}
	if path := os.Getenv("WEFT_CONFIG"); path != "" {
		return path, nil
	}
	return "", errors.New("no config file: -c is not given, ./weft.yaml does not exist, and the variable WEFT_CONFIG is not set; " +
		"name the file with -c FILE")
}

// Load reads and parses the config file at path, with the process's environment.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	if len(text) > maxSize {
		return nil, fmt.Errorf("read config: %s is larger than 1 MiB; is it the right file?", path)
	}
	c, err := Parse(path, text, os.LookupEnv)
	if err == nil {
		c.File = path
	}
	return c, err
}
