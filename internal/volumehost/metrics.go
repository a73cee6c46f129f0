package volumehost

import "github.com/prometheus/client_golang/prometheus"

var (
	descTotal       = prometheus.NewDesc("godwit_volumes_backend_bytes", "Size of the file system that a back end is on.", []string{"backend"}, nil)
	descFree        = prometheus.NewDesc("godwit_volumes_backend_free_bytes", "Bytes of it that are free.", []string{"backend"}, nil)
	descVolumes     = prometheus.NewDesc("godwit_volumes_volumes", "Volumes on the back end.", []string{"backend"}, nil)
	descAttachments = prometheus.NewDesc("godwit_volumes_attachments", "Open attachments of its volumes.", []string{"backend"}, nil)
	descDamaged     = prometheus.NewDesc("godwit_volumes_damaged", "Volumes whose metadata or data cannot be used.", []string{"backend"}, nil)
	descReflink     = prometheus.NewDesc("godwit_volumes_backend_reflink", "1 if snapshots and clones share blocks, 0 if they are copies.", []string{"backend"}, nil)
	descTroubled    = prometheus.NewDesc("godwit_volumes_troubled", "1 for each volume whose users stand still, and why; of very many the oldest.", []string{"backend", "volume", "what"}, nil)
	descRefusals    = prometheus.NewDesc("godwit_volumes_room_refusals_total", "Requests of volumes' users that found no room on the back end.", []string{"backend"}, nil)
	descRotten      = prometheus.NewDesc("godwit_volumes_images_damaged_total", "Cached images that were found to have changed on their disk, and were fetched anew.", nil, nil)
	descDirect      = prometheus.NewDesc("godwit_volumes_backend_direct_io", "1 if volumes' data bypasses the page cache.", []string{"backend"}, nil)
)

// Describe implements prometheus.Collector.
func (h *Host) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descTotal, descFree, descVolumes, descAttachments, descDamaged, descReflink, descDirect, descTroubled, descRefusals, descRotten} {
		ch <- d
	}
}

// Collect implements prometheus.Collector: what the last facts said.
func (h *Host) Collect(ch chan<- prometheus.Metric) {
	var rotten uint64
	counted := map[*images]bool{}
	for _, c := range h.images {
		if !counted[c] {
			counted[c] = true
			rotten += c.damaged.Load()
		}
	}
	ch <- prometheus.MustNewConstMetric(descRotten, prometheus.CounterValue, float64(rotten))
	for _, p := range h.probes {
		f := p.latest()
		for d, v := range map[*prometheus.Desc]float64{
			descTotal: float64(f.TotalBytes), descFree: float64(f.FreeBytes), descVolumes: float64(f.Volumes), descAttachments: float64(f.Attachments),
			descDamaged: float64(len(f.Damaged)), descReflink: one(f.Reflink), descDirect: one(f.Direct),
		} {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, f.Name)
		}
		ch <- prometheus.MustNewConstMetric(descRefusals, prometheus.CounterValue, float64(p.store.RoomRefusals()), f.Name)
		for _, t := range f.Troubles[:min(len(f.Troubles), troublesMax)] {
			ch <- prometheus.MustNewConstMetric(descTroubled, prometheus.GaugeValue, 1, f.Name, string(t.Volume), string(t.What))
		}
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
