package testkit

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// chWide is a number of 16 or 32 bytes, kept as *big.Int.
func chWide(name string, size int) *chScalar {
	signed := strings.HasPrefix(name, "I")
	return &chScalar{
		typeName: name, size: size, none: new(big.Int),
		get: func(b []byte) any { return bigFromLittleEndian(b, signed) },
		put: func(b []byte, v any) { putBigLittleEndian(b, v.(*big.Int)) },
		text: func(s string, _ *time.Location) (any, error) {
			n, ok := new(big.Int).SetString(s, 10)
			if !ok || !fitsBytes(n, size, signed) {
				return nil, fmt.Errorf("%q is no %s", s, name)
			}
			return n, nil
		},
	}
}

func bigFromLittleEndian(b []byte, signed bool) *big.Int {
	bigEndian := slices.Clone(b)
	slices.Reverse(bigEndian)
	n := new(big.Int).SetBytes(bigEndian)
	if signed && bigEndian[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(len(b)*8)))
	}
	return n
}

func fitsBytes(n *big.Int, size int, signed bool) bool {
	if signed {
		return n.BitLen() < size*8
	}
	return n.Sign() >= 0 && n.BitLen() <= size*8
}

func putBigLittleEndian(b []byte, n *big.Int) {
	if n.Sign() < 0 {
		n = new(big.Int).Add(n, new(big.Int).Lsh(big.NewInt(1), uint(len(b)*8)))
	}
	n.FillBytes(b)
	slices.Reverse(b)
}

// chDecimal is kept as text with all its decimals, such as "12.50".
func chDecimal(precision, scale int) (chType, error) {
	if precision < 1 || precision > 76 || scale < 0 || scale > precision {
		return nil, chErrorf(chBadArguments, "Wrong precision %d or scale %d of a Decimal", precision, scale)
	}
	size := 32
	switch {
	case precision <= 9:
		size = 4
	case precision <= 18:
		size = 8
	case precision <= 38:
		size = 16
	}
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)
	format := func(n *big.Int) string { return new(big.Rat).SetFrac(n, unit).FloatString(scale) }
	parse := func(s string) (*big.Int, error) {
		r, ok := new(big.Rat).SetString(s)
		if !ok {
			return nil, fmt.Errorf("%q is no number", s)
		}
		r.Mul(r, new(big.Rat).SetInt(unit))
		return new(big.Int).Quo(r.Num(), r.Denom()), nil // Further decimals are cut off, as the server does.
	}
	amount := func(v any) *big.Int {
		n, err := parse(v.(string))
		if err != nil {
			n = new(big.Int) // Never: the text was made by format.
		}
		return n
	}
	return &chScalar{
		typeName: fmt.Sprintf("Decimal(%d, %d)", precision, scale), size: size, none: format(new(big.Int)),
		get: func(b []byte) any { return format(bigFromLittleEndian(b, true)) },
		put: func(b []byte, v any) { putBigLittleEndian(b, amount(v)) },
		text: func(s string, _ *time.Location) (any, error) {
			n, err := parse(s)
			if err != nil {
				return nil, err
			}
			if !fitsBytes(n, size, true) {
				return nil, fmt.Errorf("%q is too large", s)
			}
			return format(n), nil
		},
		order: func(a, b any) int { return amount(a).Cmp(amount(b)) },
	}, nil
}

// littleEndian reads a number of up to eight bytes.
func littleEndian(b []byte) uint64 {
	var v uint64
	for _, digit := range slices.Backward(b) {
		v = v<<8 | uint64(digit)
	}
	return v
}

func putLittleEndian(b []byte, v uint64) {
	for i := range b {
		b[i] = byte(v)
		v >>= 8
	}
}
