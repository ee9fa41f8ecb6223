// Command services installs the servers that Weft is tested against and runs a command beside them.
//
//	services install              download what is missing
//	services run -- COMMAND ...   download, start, run the command, stop; its exit code is the command's
//	services run -env FILE -- ... also write the variables to FILE, to be sourced by other shells
//
// The command finds the servers in WEFT_TEST_POSTGRES_OLDEST and WEFT_TEST_POSTGRES_NEWEST (URLs), WEFT_TEST_KAFKA
// (host:port), WEFT_TEST_KAFKA_LIBS (a folder of jars with Kafka's tools), WEFT_TEST_MARIADB and WEFT_TEST_MONGODB (URLs),
// DuckDB by WEFT_TEST_DUCKDB (a Python interpreter that has it), and WEFT_TEST_SPANNER (host:port) where there is an emulator,
// which is not installed: see services.FindSpanner.
// Its standard input is empty. Interrupted, it ends the command and the servers, and leaves nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"weft/integration/services"
)

const usage = `usage: services install
       services run [-env FILE] -- COMMAND [ARG...]
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	code, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "services:", err)
	}
	os.Exit(code)
}

// run returns the exit code: the command's, 2 for wrong usage, 3 for what could not be done.
func run(ctx context.Context, args []string) (int, error) {
	flags := flag.NewFlagSet("services", flag.ContinueOnError)
	env := flags.String("env", "", "write the servers' variables to `FILE`")
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	if len(args) == 0 {
		flags.Usage()
		return 2, nil
	}
	if err := flags.Parse(args[1:]); err != nil {
		return 2, nil
	}
	command := flags.Args()
	if args[0] != "install" && args[0] != "run" || (args[0] == "run") != (len(command) > 0) {
		flags.Usage()
		return 2, nil
	}
	cache, err := services.CacheDir()
	if err != nil {
		return 3, err
	}
	binaries, err := services.Install(ctx, cache, os.Stderr)
	if err != nil {
		return 3, err
	}
	if args[0] == "install" {
		return 0, nil
	}
	s, err := services.Start(ctx, binaries)
	if err != nil {
		return 3, err
	}
	code, err := beside(ctx, s, command, *env)
	return code, errors.Join(err, s.Stop())
}

// beside runs the command while the servers run, and returns its exit code.
func beside(ctx context.Context, s *services.Services, command []string, envFile string) (int, error) {
	if envFile != "" {
		lines := "export " + strings.Join(s.Env(), "\nexport ") + "\n"
		if err := os.WriteFile(envFile, []byte(lines), 0o600); err != nil {
			return 3, err
		}
		defer os.Remove(envFile)
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), s.Env()...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	err := cmd.Run()
	if cmd.Process != nil {
		// What the command left behind in its group ends with it; there may be nothing.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case ctx.Err() != nil:
		return 3, errors.New("interrupted")
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	default:
		return 3, fmt.Errorf("run %s: %w", command[0], err)
	}
}
