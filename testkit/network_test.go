package testkit_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/testkit"
)

// connect makes a connection on a network of its own and returns its two ends.
func connect(t *testing.T) (client, server net.Conn) {
	t.Helper()
	n := new(testkit.Network)
	l, err := n.Listen("tcp", "server:1")
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() { server, _ = l.Accept() })
	client, err = n.Dial(t.Context(), "tcp", "server:1")
	accepting.Wait()
	if err != nil || server == nil {
		t.Fatalf("dial: %v, accepted: %v", err, server)
	}
	return client, server
}

func TestNetworkAddresses(t *testing.T) {
	n := new(testkit.Network)
	first, err := n.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	second, err := n.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if first.Addr().String() == second.Addr().String() {
		t.Errorf("two listeners at %s", first.Addr())
	}
	if _, err := n.Listen("tcp", first.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listen on a taken address: %v", err)
	}
	if _, err := n.Listen("tcp", "nowhere"); err == nil {
		t.Error("listen on an address without a port succeeded")
	}
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	if _, err := first.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept on a closed listener: %v", err)
	}
	if _, err := n.Dial(t.Context(), "tcp", first.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial to a closed listener: %v", err)
	}
	again, err := n.Listen("tcp", first.Addr().String())
	if err != nil {
		t.Fatalf("listen on an address that is free again: %v", err)
	}
	if err := errors.Join(again.Close(), second.Close()); err != nil {
		t.Error(err)
	}
}

// A port that somebody asked for by number is not given to somebody who asked for any.
func TestNetworkPicksFreePorts(t *testing.T) {
	n := new(testkit.Network)
	for _, addr := range []string{"127.0.0.1:49152", "127.0.0.1:49153", "127.0.0.1:0"} {
		if _, err := n.Listen("tcp", addr); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNetworkDialWaitsForAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(testkit.Network)
		l, err := n.Listen("tcp", "server:1")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Dial(ctx, "tcp", "server:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial that nobody accepts: %v", err)
		}
		time.AfterFunc(time.Second, func() { _ = l.Close() })
		if _, err := n.Dial(t.Context(), "tcp", "server:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial to a listener that closes: %v", err)
		}
	})
}

func TestNetworkCarriesBytes(t *testing.T) {
	client, server := connect(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // A megabyte: many times what a direction buffers.
	go func() {
		_, _ = client.Write(sent)
		_ = client.Close()
	}()
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("received %d bytes (%v), want the %d that were sent", len(got), err, len(sent))
	}
}

func TestNetworkWriteDoesNotWaitForTheReader(t *testing.T) {
	client, server := connect(t)
	if _, err := client.Write(make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	if err := client.SetWriteDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write beyond the window: %d, %v", n, err)
	}
	_ = server.Close()
}

func TestNetworkAfterClose(t *testing.T) {
	client, server := connect(t)
	if _, err := client.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(client.Close(), client.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(server); string(got) != "last" || err != nil {
		t.Errorf("read %q, %v after the peer's Close, want what it wrote", got, err)
	}
	if _, err := server.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write to a peer that has closed: %v", err)
	}
	for name, err := range map[string]error{
		"read":              second(client.Read(make([]byte, 1))),
		"write":             second(client.Write([]byte("x"))),
		"set deadline":      client.SetDeadline(time.Now()),
		"set read deadline": client.SetReadDeadline(time.Now()),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s on a closed connection: %v, want net.ErrClosed", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestNetworkDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := connect(t)
		begin := time.Now()
		wantTimeout := func(what string, after time.Duration, err error) {
			t.Helper()
			if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v, want a timeout", what, err)
			}
			if got := time.Since(begin); got != after {
				t.Errorf("%s ended after %v, want %v", what, got, after)
			}
		}
		_ = client.SetDeadline(begin.Add(time.Second))
		_, err := client.Read(make([]byte, 1))
		wantTimeout("read", time.Second, err)
		_, err = client.Write(make([]byte, 1))
		wantTimeout("write", time.Second, err)

		_ = client.SetDeadline(time.Time{})
		if _, err := client.Write([]byte("x")); err != nil {
			t.Errorf("write after the deadline was taken back: %v", err)
		}

		// A deadline that is moved while somebody waits counts for who waits.
		_ = client.SetReadDeadline(begin.Add(time.Hour))
		time.AfterFunc(time.Second, func() { _ = client.SetReadDeadline(begin.Add(3 * time.Second)) })
		_, err = client.Read(make([]byte, 1))
		wantTimeout("read with a moved deadline", 3*time.Second, err)

		_ = client.SetWriteDeadline(begin.Add(5 * time.Second))
		n, err := client.Write(make([]byte, 128<<10))
		wantTimeout("write that nobody reads", 5*time.Second, err)
		if n != 64<<10-1 {
			t.Errorf("%d bytes written before the timeout", n)
		}
		_ = client.Close()
		_ = server.Close()
	})
}
