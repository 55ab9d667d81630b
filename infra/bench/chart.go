package main

import (
	"fmt"
	"image/color"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// bars are one kind of request in the picture, a bar for each way.
type bars struct {
	name   string
	colour color.Color
	values [ways]latencies
}

// draw draws the first tokens of the run without model latency.
func (r *report) draw(path string) error {
	p := plot.New()
	p.Title.Text = "Time to the first token, median (stand-in API, 0 ms model latency)"
	p.Y.Label.Text = "milliseconds"
	p.Y.Min = 0
	p.BackgroundColor = color.White // it is shown on dark pages too
	p.NominalX(wayNames[:]...)
	p.Legend.Top = true
	// A CLI per request is measured with the ten requests of a user, the other ways with the new users.
	first, later := r.New[0].first, r.New[0].later
	first[spawned], later[spawned] = r.Tens[0].first[spawned], r.Tens[0].later[spawned]
	width := vg.Points(40)
	for i, b := range []bars{
		{"first request of a new user", color.RGBA{R: 217, G: 119, B: 87, A: 255}, first},
		{"later request", color.RGBA{R: 84, G: 110, B: 122, A: 255}, later},
	} {
		offset := width * vg.Length(2*i-1) / 2
		if err := b.add(p, width, offset); err != nil {
			return err
		}
	}
	return p.Save(vg.Points(720), vg.Points(360), path)
}

func (b bars) add(p *plot.Plot, width, offset vg.Length) error {
	values := make(plotter.Values, ways)
	labels := plotter.XYLabels{XYs: make(plotter.XYs, ways), Labels: make([]string, ways)}
	for way := range values {
		values[way] = millis(median(b.values[way].First))
		labels.XYs[way] = plotter.XY{X: float64(way), Y: values[way]}
		labels.Labels[way] = fmt.Sprint(median(b.values[way].First).Round(time.Millisecond).Milliseconds())
	}
	chart, err := plotter.NewBarChart(values, width)
	if err != nil {
		return err
	}
	chart.Color, chart.LineStyle.Width, chart.Offset = b.colour, 0, offset
	numbers, err := plotter.NewLabels(labels)
	if err != nil {
		return err
	}
	numbers.Offset.X, numbers.Offset.Y = offset-vg.Points(8), vg.Points(2)
	p.Add(chart, numbers)
	p.Legend.Add(b.name, chart)
	return nil
}
