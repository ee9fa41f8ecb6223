package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// rowCounter passes connections on to a PostgreSQL server, and counts the rows that it sends: it has no such figure itself.
type rowCounter struct {
	listener net.Listener
	server   string
	rows     atomic.Int64
	wg       sync.WaitGroup
}

func newRowCounter(server string) (*rowCounter, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &rowCounter{listener: l, server: server}
	c.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil { // it is closed
				return
			}
			c.wg.Go(func() { c.pass(client) })
		}
	})
	return c, nil
}

func (c *rowCounter) address() string { return c.listener.Addr().String() }

// close waits for the connections to end, which their clients see to.
func (c *rowCounter) close() {
	_ = c.listener.Close()
	c.wg.Wait()
}

func (c *rowCounter) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.server)
	if err != nil {
		return
	}
	defer server.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(server, client)
		_ = server.Close() // the client has ended
	}()
	_ = c.count(client, server)
	_ = client.Close()
	<-done
}

// count passes messages on: a type of one byte, a length of four that counts itself, and the rest.
// https://www.postgresql.org/docs/current/protocol-overview.html
func (c *rowCounter) count(client io.Writer, server io.Reader) error {
	from := bufio.NewReaderSize(server, 64<<10)
	to := bufio.NewWriterSize(client, 64<<10)
	head := make([]byte, 5)
	for {
		if from.Buffered() == 0 {
			if err := to.Flush(); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(from, head); err != nil {
			return errors.Join(err, to.Flush())
		}
		if head[0] == 'D' { // DataRow
			c.rows.Add(1)
		}
		if _, err := to.Write(head); err != nil {
			return err
		}
		if _, err := io.CopyN(to, from, int64(binary.BigEndian.Uint32(head[1:]))-4); err != nil {
			return err
		}
	}
}
