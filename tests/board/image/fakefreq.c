// A cpufreq driver with the frequencies of a Pi 4. It changes what is reported, not the speed.
#include <linux/cpufreq.h>
#include <linux/module.h>

static unsigned int current_khz = 1500000;
static struct cpufreq_frequency_table table[] = {
	{ .frequency = 600000 }, { .frequency = 1000000 }, { .frequency = 1500000 }, { .frequency = CPUFREQ_TABLE_END },
};

static int init(struct cpufreq_policy *policy)
{
	policy->freq_table = table;
	policy->cpuinfo.transition_latency = 100000;
	policy->cur = current_khz;
	cpumask_copy(policy->cpus, cpu_possible_mask);
	return 0;
}

static int target_index(struct cpufreq_policy *policy, unsigned int index)
{
	current_khz = table[index].frequency;
	return 0;
}

static unsigned int get(unsigned int cpu)
{
	return current_khz;
}

static struct cpufreq_driver driver = {
	.name = "fakefreq",
	.flags = CPUFREQ_NEED_INITIAL_FREQ_CHECK,
	.init = init,
	.verify = cpufreq_generic_frequency_table_verify,
	.target_index = target_index,
	.get = get,
	.attr = cpufreq_generic_attr,
};

static int __init begin(void)
{
	return cpufreq_register_driver(&driver);
}

static void __exit end(void)
{
	cpufreq_unregister_driver(&driver);
}

module_init(begin);
module_exit(end);
MODULE_LICENSE("GPL");
