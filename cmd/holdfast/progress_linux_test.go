package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// terminal makes a pair: what is written to one end as to a terminal is read at the other.
func terminal(t *testing.T) (outside, inside *os.File) {
	t.Helper()
	outside, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = outside.Close() })
	var number, locked int32
	for request, argument := range map[uintptr]*int32{syscall.TIOCGPTN: &number, syscall.TIOCSPTLCK: &locked} {
		if _, _, code := syscall.Syscall(syscall.SYS_IOCTL, outside.Fd(), request, uintptr(unsafe.Pointer(argument))); code != 0 {
			t.Fatal(code)
		}
	}
	inside, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = inside.Close() })
	return outside, inside
}

// watched runs a redrive of a second or more and gives what it writes to its standard error, which is inside; when it is
// over, inside is closed.
func watched(t *testing.T, outside io.Reader, inside *os.File) string {
	t.Helper()
	c := newCounter(t, orders())
	for i := range 40 {
		c.letter(i, nil)
	}
	said := make(chan string)
	go func() {
		text, _ := io.ReadAll(outside) // Of a terminal that is gone, an error is the end.
		said <- string(text)
	}()
	code := run(t.Context(), []string{"dlq", "redrive", "orders.dlq", "--yes", "--rate", "20"}, nil, &bytes.Buffer{}, inside)
	_ = inside.Close()
	text := <-said
	if code != exitDone {
		t.Fatalf("exit code %d, said %s", code, text)
	}
	return text
}

// On a terminal, long work shows how far it is, at which rate and how long it will take.
func TestProgressOnATerminal(t *testing.T) {
	outside, inside := terminal(t)
	said := watched(t, outside, inside)
	if !regexp.MustCompile(`\d+ / 40 \[.+\] \d+\.\d\d% \d+ p/s`).MatchString(said) || !strings.Contains(said, "40 / 40") {
		t.Errorf("there is no bar in %q", said)
	}
}

// To a file, or another program, nothing of it goes.
func TestNoProgressElsewhere(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = read.Close() }()
	if said := watched(t, read, write); said != "" {
		t.Errorf("said %q", said)
	}
}
