package store

import (
	"fmt"
	"testing"
)

// fill makes n records of about 300 bytes.
func fill(b *testing.B, s *Store, n int) {
	b.Helper()
	const batch = 50 // each record with a name is a record, a guard, and two compares
	for from := 0; from < n; from += batch {
		update(b, s, func(tx *Tx) error {
			for i := from; i < min(from+batch, n); i++ {
				g := guest{ID: fmt.Sprintf("%06d", i), Name: fmt.Sprintf("vm-%06d", i), Host: fmt.Sprintf("h%d", i%50), Number: i,
					Tags: map[string]string{"image": "debian-12", "flavor": "m1.small", "owner": "somebody", "zone": "nova"}}
				if err := Put(tx, guests, g.ID, g); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func BenchmarkUpdateOneRecord(b *testing.B) {
	s := open(b)
	ctx := b.Context()
	i := 0
	for b.Loop() {
		i++
		if _, err := s.Update(ctx, func(tx *Tx) error { return Put(tx, plain, "k", guest{Number: i}) }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadModifyWriteParallel(b *testing.B) {
	s := open(b)
	fill(b, s, 1000)
	ctx := b.Context()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			key := fmt.Sprintf("%06d", (i*7919)%1000)
			_, err := s.Update(ctx, func(tx *Tx) error {
				g, err := Get(tx, guests, key)
				if err != nil {
					return err
				}
				g.Number++
				return Put(tx, guests, key, g)
			})
			if err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkReads(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		s := open(b)
		fill(b, s, n)
		b.Run(fmt.Sprintf("All/%d", n), func(b *testing.B) {
			for b.Loop() {
				if len(All(s, guests)) != n {
					b.Fatal("wrong count")
				}
			}
		})
		b.Run(fmt.Sprintf("By/%d", n), func(b *testing.B) {
			for b.Loop() {
				if len(By(s, guests, "host", "h7")) != n/50 {
					b.Fatal("wrong count")
				}
			}
		})
		b.Run(fmt.Sprintf("Lookup/%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, ok := Lookup(s, guests, "000500"); !ok {
					b.Fatal("not found")
				}
			}
		})
		b.Run(fmt.Sprintf("PageOf100/%d", n), func(b *testing.B) {
			for b.Loop() {
				count := 0
				for range Ascend(s, guests, "number", Cursor{Value: "00000500", Key: "000500"}) {
					if count++; count == 100 {
						break
					}
				}
			}
		})
	}
}
