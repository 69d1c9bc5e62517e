package cluster
import ("testing";"runtime/pprof";"os";"time")
func TestMemX(t *testing.T){ if os.Getenv("MEMX")=="" {t.Skip()}
 s:=open(t,Config{Dir:t.TempDir(),Node:testNode(0)})
 t.Log("none", heapInUse()>>20)
 fill(t,s,100000)
 t.Log("filled", heapInUse()>>20)
 f,_:=os.Create("/tmp/heap.prof"); pprof.WriteHeapProfile(f); f.Close()
 time.Sleep(5*time.Second)
 t.Log("later", heapInUse()>>20)
}
