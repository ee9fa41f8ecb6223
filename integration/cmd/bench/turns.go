package main

import (
	"fmt"
	"slices"
	"time"
)

// drain is one measured reading, of the backlog or of the table.
type drain struct {
	changes int
	took    time.Duration
	cpu     time.Duration // 0 where it is not measured
	peakRSS int64         // bytes; likewise
	fileRSS int64         // bytes of the program's own pages, at the end; likewise
	idle    float64       // the share of a core that it takes afterwards, while nothing happens
}

func (d drain) rate() float64 { return float64(d.changes) / d.took.Seconds() }

func (d drain) cpuPerChange() float64 { return float64(d.cpu.Microseconds()) / float64(d.changes) }

func (d drain) print(round int, name, unit string) {
	fmt.Printf("round %d  %-8s  %7.0f %ss/s  (%.2f s)", round+1, name, d.rate(), unit, d.took.Seconds())
	if d.cpu > 0 {
		fmt.Printf("  %.1f CPU us/%s", d.cpuPerChange(), unit)
	}
	if d.peakRSS > 0 {
		fmt.Printf("  RSS at most %d MiB", d.peakRSS>>20)
	}
	if d.fileRSS > 0 {
		fmt.Printf(", %d of them the program", d.fileRSS>>20)
	}
	fmt.Println()
}

// drains are those of all rounds.
type drains []drain

func (d drains) median(figure func(drain) float64) float64 {
	var v []float64
	for _, one := range d {
		v = append(v, figure(one))
	}
	slices.Sort(v)
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

func (d drains) peakRSS() int64 {
	return slices.MaxFunc(d, func(a, b drain) int { return int(a.peakRSS - b.peakRSS) }).peakRSS
}

// way is one of the two that read the same.
type way struct {
	name string
	read func(round int) (drain, error)
}

// inTurns has both ways read in each round, and prints what they took in units, such as changes. Each is first as often as the other.
func inTurns(rounds int, unit string, bare, weft way) (ofBare, ofWeft drains, err error) {
	ways, taken := [2]way{bare, weft}, [2]drains{}
	for round := range rounds {
		for turn := range 2 {
			n := (turn + round) % 2
			d, err := ways[n].read(round)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", ways[n].name, err)
			}
			d.print(round, ways[n].name, unit)
			taken[n] = append(taken[n], d)
		}
	}
	return taken[0], taken[1], nil
}
