package verity

import (
	"bytes"
	"sync"
)

// Arithmetic in GF(2^8) with polynomial 0x11d, and what decoding needs of it.
// The wide products are package reedsolomon's; here are the small ones.

type gfTables struct {
	exp [2 * codeword]byte // α^i, twice so that sums of logarithms need no modulo
	log [256]int
}

var gf = sync.OnceValue(func() *gfTables {
	t := new(gfTables)
	x := byte(1)
	for i := range codeword {
		t.exp[i], t.exp[i+codeword] = x, x
		t.log[x] = i
		x = gfMul(x, 2)
	}
	return t
})

func (t *gfTables) mul(a, b byte) byte {
	if a == 0 || b == 0 {
		return 0
	}
	return t.exp[t.log[a]+t.log[b]]
}

// inv returns 1/a, a not 0.
func (t *gfTables) inv(a byte) byte { return t.exp[codeword-t.log[a]] }

// invert returns the inverse of the square matrix m, which it destroys, or nil
// if there is none.
func (t *gfTables) invert(m [][]byte) [][]byte {
	n := len(m)
	inverse := make([][]byte, n)
	for i := range inverse {
		inverse[i] = make([]byte, n)
		inverse[i][i] = 1
	}
	for c := range n {
		p := c
		for p < n && m[p][c] == 0 {
			p++
		}
		if p == n {
			return nil
		}
		m[c], m[p] = m[p], m[c]
		inverse[c], inverse[p] = inverse[p], inverse[c]
		t.scale(m[c], inverse[c], t.inv(m[c][c]))
		for row := range n {
			if f := m[row][c]; row != c && f != 0 {
				t.addScaled(m[row], m[c], f)
				t.addScaled(inverse[row], inverse[c], f)
			}
		}
	}
	return inverse
}

func (t *gfTables) scale(a, b []byte, f byte) {
	for i := range a {
		a[i] = t.mul(a[i], f)
		b[i] = t.mul(b[i], f)
	}
}

// addScaled adds f times src to dst.
func (t *gfTables) addScaled(dst, src []byte, f byte) {
	l := t.log[f]
	for i, b := range src {
		if b != 0 {
			dst[i] ^= t.exp[l+t.log[b]]
		}
	}
}

// subspace is a linear subspace of the vectors of MaxFECRoots bytes.
type subspace struct {
	t     *gfTables
	dim   int
	pivot [MaxFECRoots]int
	basis [MaxFECRoots][MaxFECRoots]byte // basis[i] is 1 at pivot[i]
	rest  [MaxFECRoots]byte
}

// reduce leaves in s.rest what of v is outside the subspace.
func (s *subspace) reduce(v []byte) []byte {
	rest := s.rest[:copy(s.rest[:], v)]
	for i := range s.dim {
		if f := rest[s.pivot[i]]; f != 0 {
			s.t.addScaled(rest, s.basis[i][:len(rest)], f)
		}
	}
	return rest
}

// has reports whether v lies in the subspace.
func (s *subspace) has(v []byte) bool {
	for _, b := range s.reduce(v) {
		if b != 0 {
			return false
		}
	}
	return true
}

// add extends the subspace by v.
func (s *subspace) add(v []byte) {
	rest := s.reduce(v)
	for i, b := range rest {
		if b == 0 {
			continue
		}
		f := s.t.inv(b)
		for j, c := range rest {
			s.basis[s.dim][j] = s.t.mul(c, f)
		}
		s.pivot[s.dim] = i
		s.dim++
		return
	}
}

// corrector finds the errors of single codewords: places and values, with the
// places of some (erasures) known before. Symbol t of a codeword is the
// coefficient of x^(254−t).
type corrector struct {
	t     *gfTables
	roots int

	syndromes [MaxFECRoots]byte
	locator   [MaxFECRoots + 2]byte // Λ, locator[i] belongs to x^i
	previous  [MaxFECRoots + 2]byte
	next      [MaxFECRoots + 2]byte
	omega     [MaxFECRoots]byte
	places    [MaxFECRoots]int
	values    [MaxFECRoots]byte
}

// correct takes the difference between the parity of the data symbols as they
// are and the parity symbols as they are, and the places of the erasures. It
// returns places and values of the errors, valid until the next call; values of
// erasures can be 0. It reports false when no codeword is near enough: e errors
// and s erasures are found if 2e + s ≤ roots.
func (c *corrector) correct(difference []byte, erasures []int) (places []int, values []byte, ok bool) {
	if len(erasures) > c.roots {
		return nil, nil, false
	}
	if !c.setSyndromes(difference) {
		for i, e := range erasures {
			c.places[i], c.values[i] = e, 0
		}
		return c.places[:len(erasures)], c.values[:len(erasures)], true
	}
	degree, ok := c.findLocator(erasures)
	if !ok {
		return nil, nil, false
	}
	n := c.findPlaces(degree)
	if n != degree || !c.findValues(n) || !c.explains(n) {
		return nil, nil, false
	}
	return c.places[:n], c.values[:n], true
}

// setSyndromes evaluates the word at the generator's roots; the difference is
// its remainder modulo the generator. It reports whether any is not zero.
func (c *corrector) setSyndromes(difference []byte) bool {
	var any byte
	for _, d := range difference {
		any |= d
	}
	if any == 0 {
		return false
	}
	for i := range c.roots {
		var sum byte
		for _, d := range difference {
			sum = c.t.mul(sum, c.t.exp[i]) ^ d
		}
		c.syndromes[i] = sum
	}
	return true
}

// findLocator is the Berlekamp–Massey algorithm begun with the erasures'
// locator (Blahut). It returns the degree of the locator of errors and erasures.
func (c *corrector) findLocator(erasures []int) (degree int, ok bool) {
	t := c.t
	clear(c.locator[:])
	c.locator[0] = 1
	for i, e := range erasures {
		x := t.exp[codeword-1-e]
		for j := i + 1; j > 0; j-- {
			c.locator[j] ^= t.mul(c.locator[j-1], x)
		}
	}
	s := len(erasures)
	c.previous = c.locator
	length := s
	for r := s; r < c.roots; r++ {
		var d byte
		for i := 0; i <= length; i++ {
			if r-i >= 0 {
				d ^= t.mul(c.locator[i], c.syndromes[r-i])
			}
		}
		copy(c.previous[1:], c.previous[:len(c.previous)-1])
		c.previous[0] = 0
		if d == 0 {
			continue
		}
		c.next = c.locator
		t.addScaled(c.next[:], c.previous[:], d)
		if 2*length <= r+s {
			length = r + 1 + s - length
			f := t.inv(d)
			for i, b := range c.locator {
				c.previous[i] = t.mul(b, f)
			}
		}
		c.locator = c.next
	}
	if length > c.roots || 2*(length-s)+s > c.roots {
		return 0, false
	}
	for i := len(c.locator) - 1; i > length; i-- {
		if c.locator[i] != 0 {
			return 0, false
		}
	}
	return length, c.locator[length] != 0
}

// findPlaces searches the locator's roots and returns how many there are.
func (c *corrector) findPlaces(degree int) int {
	n := 0
	for place := 0; place < codeword && n < degree; place++ {
		// X = α^(254−place); the locator is 0 at 1/X.
		inverse := (place + 1) % codeword
		var sum byte
		for i := degree; i >= 0; i-- {
			sum = c.t.mul(sum, c.t.exp[inverse]) ^ c.locator[i]
		}
		if sum == 0 {
			c.places[n] = place
			n++
		}
	}
	return n
}

// findValues is Forney's algorithm for a first root of α^0.
func (c *corrector) findValues(n int) bool {
	t := c.t
	for i := range c.roots {
		c.omega[i] = 0
		for j := 0; j <= min(i, n); j++ {
			c.omega[i] ^= t.mul(c.locator[j], c.syndromes[i-j])
		}
	}
	for e, place := range c.places[:n] {
		inverse := t.exp[(place+1)%codeword]
		var num, den byte
		for i := c.roots - 1; i >= 0; i-- {
			num = t.mul(num, inverse) ^ c.omega[i]
		}
		square := t.mul(inverse, inverse)
		for i := (n - 1) / 2 * 2; i >= 0; i -= 2 { // the derivative keeps the odd powers
			den = t.mul(den, square) ^ c.locator[i+1]
		}
		if den == 0 {
			return false
		}
		c.values[e] = t.mul(t.exp[codeword-1-place], t.mul(num, t.inv(den)))
	}
	return true
}

// explains reports whether the errors found have the word's syndromes.
func (c *corrector) explains(n int) bool {
	var sums [MaxFECRoots]byte
	for e, place := range c.places[:n] {
		term := c.values[e]
		for i := range c.roots {
			sums[i] ^= term
			term = c.t.mul(term, c.t.exp[codeword-1-place])
		}
	}
	return bytes.Equal(sums[:c.roots], c.syndromes[:c.roots])
}
