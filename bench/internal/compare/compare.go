// Package compare runs contenders as processes of their own, in rounds that interleave them, and takes medians.
package compare

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// Sample is what one process measured of itself.
type Sample struct {
	Count  int           // Messages.
	Wall   time.Duration // From the first message asked for to the last one handled.
	CPU    time.Duration // User and system time of the process in that time.
	Allocs uint64
	Close  time.Duration // How long closing took, idle.
	P50    time.Duration // Of one call, where calls are timed.
}

// Meter measures this process from its start.
type Meter struct {
	began  time.Time
	cpu    time.Duration
	allocs uint64
}

// Start begins to measure.
func Start() Meter {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return Meter{time.Now(), cpu(), m.Mallocs}
}

// Stop ends the measurement of count messages.
func (m Meter) Stop(count int) Sample {
	s := Sample{Count: count, Wall: time.Since(m.began), CPU: cpu() - m.cpu}
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	s.Allocs = now.Mallocs - m.allocs
	return s
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Print writes a sample where the parent reads it.
func (s Sample) Print() error { return json.NewEncoder(os.Stdout).Encode(s) }

// Run runs this program with arguments and returns the sample that it prints.
func Run(ctx context.Context, args ...string) (Sample, error) {
	self, err := os.Executable()
	if err != nil {
		return Sample{}, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return Sample{}, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	var s Sample
	return s, json.Unmarshal(out, &s)
}

// Serve runs this program with arguments as a server, and returns the first line that it prints.
func Serve(ctx context.Context, args ...string) (line string, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = in.Close() // It ends when its standard input does.
		_ = cmd.Wait()
	}
	line, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, errors.Join(errors.New("the server said nothing"), err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return strings.TrimSpace(line), stop, nil
}

// UntilParentEnds blocks until standard input ends.
func UntilParentEnds() { _, _ = io.Copy(io.Discard, os.Stdin) }

// Results are the samples of every contender.
type Results map[string][]Sample

// Median is the median of a figure over a contender's samples.
func (r Results) Median(contender string, of func(Sample) float64) float64 {
	all := make([]float64, 0, len(r[contender]))
	for _, s := range r[contender] {
		all = append(all, of(s))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// Rate is messages a second.
func Rate(s Sample) float64 { return float64(s.Count) / s.Wall.Seconds() }

// CPUPerMillion is seconds of CPU for a million messages.
func CPUPerMillion(s Sample) float64 { return s.CPU.Seconds() / float64(s.Count) * 1e6 }

// AllocsPerMessage is allocations a message.
func AllocsPerMessage(s Sample) float64 { return float64(s.Allocs) / float64(s.Count) }

// Table prints a row for every contender.
func (r Results) Table(title string) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%s\tmsg/s\tCPU s/M\tallocs/msg\tclose ms\t\n", title)
	for _, name := range slices.Sorted(maps.Keys(r)) {
		fmt.Fprintf(w, "%s\t%.0fk\t%.2f\t%.3f\t%.0f\t\n", name, r.Median(name, Rate)/1e3, r.Median(name, CPUPerMillion),
			r.Median(name, AllocsPerMessage), r.Median(name, func(s Sample) float64 { return s.Close.Seconds() * 1e3 }))
	}
	_ = w.Flush()
	fmt.Println()
}
