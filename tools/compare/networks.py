"""The networks of tessera in PyTorch, for comparing results and speed: published VAR and its tokenizer.

Modules carry the tensor names of the model files, so `load_state_dict` takes a file as it is. Formulas: models/autoencoder.h,
models/quantizer.h, models/transformer.h, models/generator.h. Channels first, as PyTorch likes its pictures.
"""
import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


def norm(channels, groups):
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResBlock(nn.Module):
    def __init__(self, i, o, groups):
        super().__init__()
        self.norm1, self.conv1 = norm(i, groups), nn.Conv2d(i, o, 3, padding=1)
        self.norm2, self.conv2 = norm(o, groups), nn.Conv2d(o, o, 3, padding=1)
        if i != o:
            self.nin_shortcut = nn.Conv2d(i, o, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class AttnBlock(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.norm, self.qkv, self.proj_out = norm(c, groups), nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)  # [B,hw,C]
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj_out(y.transpose(1, 2).reshape(b, c, h, w))


def level(i, o, n, attention, groups):
    m = nn.Module()
    m.block = nn.ModuleList(ResBlock(i if j == 0 else o, o, groups) for j in range(n))
    m.attn = nn.ModuleList(AttnBlock(o, groups) for _ in range(n)) if attention else nn.ModuleList()
    return m


def run_level(m, x):
    for j, block in enumerate(m.block):
        x = block(x)
        if len(m.attn):
            x = m.attn[j](x)
    return x


def resize(c):
    m = nn.Module()
    m.conv = nn.Conv2d(c, c, 3)
    return m


def middle(c, attention, groups):
    m = nn.Module()
    m.block_1, m.block_2 = ResBlock(c, c, groups), ResBlock(c, c, groups)
    if attention:
        m.attn_1 = AttnBlock(c, groups)
    return m


def run_middle(m, x):
    x = m.block_1(x)
    return m.block_2(m.attn_1(x) if hasattr(m, "attn_1") else x)


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        groups, attention, last = c.get("norm_groups", 32), c.get("attention", True), len(c["ch_mult"]) - 1
        self.conv_in = nn.Conv2d(3, c["ch"], 3, padding=1)
        self.down, width = nn.ModuleList(), c["ch"]
        for i, mult in enumerate(c["ch_mult"]):
            self.down.append(level(width, c["ch"] * mult, c["num_res_blocks"], attention and i == last, groups))
            width = c["ch"] * mult
            if i < last:
                self.down[i].downsample = resize(width)
        self.mid = middle(width, attention, groups)
        self.norm_out, self.conv_out = norm(width, groups), nn.Conv2d(width, c["z_channels"], 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for m in self.down:
            x = run_level(m, x)
            if hasattr(m, "downsample"):
                x = F.conv2d(F.pad(x, (0, 1, 0, 1)), m.downsample.conv.weight, m.downsample.conv.bias, stride=2)
        return self.conv_out(F.silu(self.norm_out(run_middle(self.mid, x))))


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        groups, attention, last = c.get("norm_groups", 32), c.get("attention", True), len(c["ch_mult"]) - 1
        width = c["ch"] * c["ch_mult"][-1]
        self.conv_in = nn.Conv2d(c["z_channels"], width, 3, padding=1)
        self.mid = middle(width, attention, groups)
        up = {}
        for i in reversed(range(last + 1)):
            o = c["ch"] * c["ch_mult"][i]
            up[i] = level(width, o, c["num_res_blocks"] + 1, attention and i == last, groups)
            width = o
            if i > 0:
                up[i].upsample = resize(width)
        self.up = nn.ModuleList(up[i] for i in range(last + 1))
        self.norm_out, self.conv_out = norm(width, groups), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        x = run_middle(self.mid, self.conv_in(x))
        for m in reversed(self.up):
            x = run_level(m, x)
            if hasattr(m, "upsample"):
                x = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), m.upsample.conv.weight,
                             m.upsample.conv.bias, padding=1)
        return self.conv_out(F.silu(self.norm_out(x)))


class ResidualVQ(nn.Module):
    """Multi-scale residual quantizer with one codebook; phi(u) = (1 - r) u + r conv3x3(u)."""

    def __init__(self, c):
        super().__init__()
        q = c["quantizer"]
        self.sides, self.znorm, self.ratio = c["patch_nums"], q.get("using_znorm", False), q.get("quant_resi", 0.5)
        self.embedding = nn.Embedding(q["vocab_size"], c["z_channels"])
        K, S = len(self.sides), q.get("share_quant_resi", 4)
        convs = [nn.Conv2d(c["z_channels"], c["z_channels"], 3, padding=1) for _ in range(S or K)]
        self.quant_resi = nn.Module() if S else nn.ModuleList(convs)
        if S == 1:
            self.quant_resi.qresi = convs[0]
        elif S:
            self.quant_resi.qresi_ls = nn.ModuleList(convs)
        n = len(convs)
        ends = 1 / 3 / n if n == 4 else 1 / 2 / n
        ticks = np.linspace(ends, 1 - ends, n)  # ties are real (K = 10, n = 4, k = 2): its rounding decides them
        self.phi = [min(range(n), key=lambda i, at=k / max(K - 1, 1): abs(ticks[i] - at)) for k in range(K)]

    def convs(self):
        m = self.quant_resi
        return [m.qresi] if hasattr(m, "qresi") else m.qresi_ls if hasattr(m, "qresi_ls") else m

    def index(self, z):  # [N,D] -> [N]
        w = self.embedding.weight
        if self.znorm:
            return (F.normalize(z, dim=-1) @ F.normalize(w, dim=-1).T).argmax(-1)
        return (z.square().sum(-1, keepdim=True) + w.square().sum(-1) - 2 * z @ w.T).argmin(-1)

    def step(self, idx, k):
        """Codes [B,p*p] -> what scale k adds to f_hat."""
        p, side = self.sides[k], self.sides[-1]
        u = self.embedding(idx).transpose(1, 2).reshape(len(idx), -1, p, p)
        if p != side:
            u = F.interpolate(u, size=(side, side), mode="bicubic")
        return u * (1 - self.ratio) + self.convs()[self.phi[k]](u) * self.ratio

    def forward(self, f):
        rest, out = f, []
        for k, p in enumerate(self.sides):
            z = F.interpolate(rest, size=(p, p), mode="area") if p != self.sides[-1] else rest
            idx = self.index(z.permute(0, 2, 3, 1).flatten(0, 2)).view(len(f), -1)
            rest = rest - self.step(idx, k)
            out.append(idx)
        return torch.cat(out, 1)

    def sums_of(self, tokens):
        """After every scale."""
        at, f_hat, sums = 0, 0, []
        for k, p in enumerate(self.sides):
            f_hat = f_hat + self.step(tokens[:, at:at + p * p], k)
            at += p * p
            sums.append(f_hat)
        return sums


class Tokenizer(nn.Module):
    def __init__(self, c):
        super().__init__()
        ks = c.get("quant_conv_ks", 3)
        self.encoder, self.decoder, self.quantize = Encoder(c), Decoder(c), ResidualVQ(c)
        self.quant_conv = nn.Conv2d(c["z_channels"], c["z_channels"], ks, padding=ks // 2)
        self.post_quant_conv = nn.Conv2d(c["z_channels"], c["z_channels"], ks, padding=ks // 2)

    def latent(self, image):
        return self.quant_conv(self.encoder(image)).float()

    def encode(self, image):
        return self.quantize(self.latent(image))

    def decode(self, f_hat):
        return self.decoder(self.post_quant_conv(f_hat)).clamp(-1, 1)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        C, H, hidden = c["embed_dim"], c["num_heads"], round(c["embed_dim"] * c.get("mlp_ratio", 4))
        self.H, self.eps = H, c.get("norm_eps", 1e-6)
        a = self.attn = nn.Module()
        a.mat_qkv, a.proj = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C)
        a.q_bias, a.v_bias = nn.Parameter(torch.zeros(C)), nn.Parameter(torch.zeros(C))
        a.register_buffer("zero_k_bias", torch.zeros(C))
        if c.get("attn_l2_norm", False):
            a.scale_mul_1H11 = nn.Parameter(torch.zeros(1, H, 1, 1))
        self.scale = 1 if c.get("attn_l2_norm", False) else 0.25 / math.sqrt(C / H)
        self.ffn = nn.Module()
        self.ffn.fc1, self.ffn.fc2 = nn.Linear(C, hidden), nn.Linear(hidden, C)
        if c.get("shared_aln", False):
            self.ada_gss = nn.Parameter(torch.zeros(1, 1, 6, C))
        else:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(C, 6 * C))

    def modulation(self, s, shared):
        m = shared + self.ada_gss if shared is not None else self.ada_lin(s).view(len(s), 1, 6, -1)
        return m.unbind(2)

    def attention(self, h, cache, mask):
        a, (B, T, C) = self.attn, h.shape
        qkv = F.linear(h, a.mat_qkv.weight, torch.cat([a.q_bias, a.zero_k_bias, a.v_bias]))
        q, k, v = qkv.view(B, T, 3, self.H, C // self.H).permute(2, 0, 3, 1, 4)
        if hasattr(a, "scale_mul_1H11"):
            q = F.normalize(q, dim=-1) * a.scale_mul_1H11.clamp_max(math.log(100)).exp()
            k = F.normalize(k, dim=-1)
        v = v.to(q.dtype)
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return a.proj(y.transpose(1, 2).reshape(B, T, C))

    def forward(self, x, modulation, cache=None, mask=None):
        g1, g2, sc1, sc2, sh1, sh2 = modulation
        C = (x.shape[-1],)
        x = x + g1 * self.attention(F.layer_norm(x, C, eps=self.eps) * (1 + sc1) + sh1, cache, mask)
        h = self.ffn.fc1(F.layer_norm(x, C, eps=self.eps) * (1 + sc2) + sh2)
        return x + g2 * self.ffn.fc2(F.gelu(h, approximate="tanh"))


class Generator(nn.Module):
    def __init__(self, c):
        super().__init__()
        C, self.sides, self.classes, self.eps = c["embed_dim"], c["patch_nums"], c["num_classes"], c.get("norm_eps", 1e-6)
        self.starts = [sum(p * p for p in self.sides[:k]) for k in range(len(self.sides) + 1)]
        self.word_embed = nn.Linear(c["z_channels"], C)
        self.class_emb = nn.Embedding(c["num_classes"] + 1, C)
        self.pos_start = nn.Parameter(torch.zeros(1, self.starts[1], C))
        self.pos_1LC = nn.Parameter(torch.zeros(1, self.starts[-1], C))
        self.lvl_embed = nn.Embedding(len(self.sides), C)
        if c.get("shared_aln", False):
            self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(C, 6 * C))
        self.blocks = nn.ModuleList(Block(c) for _ in range(c["depth"]))
        self.head_nm = nn.Module()
        self.head_nm.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(C, 2 * C))
        self.head = nn.Linear(C, c["vocab_size"])

    def modulations(self, s):
        shared = self.shared_ada_lin(s).view(len(s), 1, 6, -1) if hasattr(self, "shared_ada_lin") else None
        scale, shift = self.head_nm.ada_lin(s).view(len(s), 1, 2, -1).unbind(2)
        return [b.modulation(s, shared) for b in self.blocks], scale, shift

    def scale_logits(self, x, k, modulations, caches):
        per_block, scale, shift = modulations
        x = x + self.lvl_embed.weight[k] + self.pos_1LC[:, self.starts[k]:self.starts[k + 1]]
        for block, m, cache in zip(self.blocks, per_block, caches):
            x = block(x, m, cache)
        return self.head(F.layer_norm(x, (x.shape[-1],), eps=self.eps) * (1 + scale) + shift).float()

    def sample(self, tokenizer, labels, cfg, draw):
        """labels [B] -> (tokens [B,T], f_hat); draw(logits [B,t,V]) -> tokens [B,t]."""
        q, B, K = tokenizer.quantize, len(labels), len(self.sides)
        s = self.class_emb(torch.cat([labels, torch.full_like(labels, self.classes)]))
        modulations, caches, tokens = self.modulations(s), [[] for _ in self.blocks], []
        x, f_hat = s[:, None] + self.pos_start, 0
        for k in range(K):
            logits = self.scale_logits(x, k, modulations, caches)
            t = cfg * k / (K - 1)
            idx = draw((1 + t) * logits[:B] - t * logits[B:])
            tokens.append(idx)
            f_hat = f_hat + q.step(idx, k)
            if k + 1 < K:
                x = self.embedded(f_hat, k + 1).repeat(2, 1, 1)
        return torch.cat(tokens, 1), f_hat

    def embedded(self, f_hat, k):
        """The input of scale k, given the sum up to there."""
        p = self.sides[k]
        z = F.interpolate(f_hat, size=(p, p), mode="area") if p != self.sides[-1] else f_hat
        return self.word_embed(z.flatten(2).transpose(1, 2))

    def bits(self, tokenizer, tokens, labels):
        """Bits that the tokens [B,T] of each scale cost, summed over pictures, given the true coarser ones."""
        q, s = tokenizer.quantize, self.class_emb(labels)
        modulations, caches, out = self.modulations(s), [[] for _ in self.blocks], []
        x, f_hat = s[:, None] + self.pos_start, 0
        for k in range(len(self.sides)):
            idx = tokens[:, self.starts[k]:self.starts[k + 1]]
            logits = self.scale_logits(x, k, modulations, caches)
            out.append(F.cross_entropy(logits.flatten(0, 1), idx.flatten(), reduction="sum").item() / math.log(2))
            f_hat = f_hat + q.step(idx, k)
            if k + 1 < len(self.sides):
                x = self.embedded(f_hat, k + 1)
        return out
