package services

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Kafka is a running Apache Kafka of one node that is broker and controller.
type Kafka struct {
	// Address is host:port.
	Address string
	process *process
}

// StartKafka formats a log in dir and waits until the broker has joined. libs is the folder of jars of Binaries.
func StartKafka(ctx context.Context, libs, dir string) (*Kafka, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	controller, err := FreePort()
	if err != nil {
		return nil, err
	}
	k := &Kafka{Address: fmt.Sprintf("127.0.0.1:%d", port)}
	config := filepath.Join(dir, "server.properties")
	settings := []string{
		"process.roles=broker,controller",
		"node.id=1",
		fmt.Sprintf("controller.quorum.bootstrap.servers=127.0.0.1:%d", controller),
		fmt.Sprintf("listeners=PLAINTEXT://%s,CONTROLLER://127.0.0.1:%d", k.Address, controller),
		"controller.listener.names=CONTROLLER",
		"log.dirs=" + filepath.Join(dir, "data"),
		"offsets.topic.replication.factor=1",
		"offsets.topic.num.partitions=4",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"transaction.state.log.num.partitions=4",
		"group.initial.rebalance.delay.ms=0",
	}
	if err := os.WriteFile(config, []byte(strings.Join(settings, "\n")+"\n"), 0o644); err != nil {
		return nil, err
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	format := JavaTool(ctx, libs, "kafka.tools.StorageTool", "format", "--standalone", "-c", config,
		"--cluster-id="+base64.RawURLEncoding.EncodeToString(id[:])) // with =, since one in 64 begins with a dash
	if out, err := format.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("format Kafka's storage: %w\n%s", err, out)
	}
	broker := exec.Command("java", "-Xmx512m", "-cp", filepath.Join(libs, "*"), "kafka.Kafka", config)
	if k.process, err = start(broker, dir, "kafka"); err != nil {
		return nil, err
	}
	if err := k.process.waitReady("Kafka", time.Minute, func() error { return k.ping(ctx) }); err != nil {
		k.Stop()
		return nil, err
	}
	return k, nil
}

// Stop ends the broker at once: its data are not needed any more.
func (k *Kafka) Stop() { k.process.stop(syscall.SIGKILL, 10*time.Second) }

func (k *Kafka) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Address))
	if err != nil {
		return err
	}
	defer client.Close()
	brokers, err := kadm.NewClient(client).ListBrokers(ctx)
	if err != nil {
		return err
	}
	if len(brokers) == 0 {
		return errors.New("no broker has joined")
	}
	return nil
}

// JavaTool is a command that runs a main class of libs, such as Kafka's console consumer.
func JavaTool(ctx context.Context, libs, class string, args ...string) *exec.Cmd {
	// The options make a short run start fast.
	return exec.CommandContext(ctx, "java", append([]string{"-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
		"-cp", filepath.Join(libs, "*"), class}, args...)...)
}
