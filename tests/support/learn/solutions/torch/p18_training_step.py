import torch


def clip_gradients(gradients, limit):
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients.values()]))
    return {name: g * (limit / norm) if norm > limit else g for name, g in gradients.items()}


def adamw_update(parameter, gradient, m, v, step, learning_rate, beta1, beta2, epsilon, weight_decay):
    p = torch.nn.Parameter(parameter.clone())
    rule = torch.optim.AdamW([p], learning_rate, (beta1, beta2), epsilon, weight_decay)
    p.grad = gradient.clone()
    rule.state[p] = {"step": torch.tensor(step - 1.0), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
    rule.step()
    return p.detach(), rule.state[p]["exp_avg"], rule.state[p]["exp_avg_sq"]
